"""Whole histories of several workers in pretended time, from a seed: the same seed gives the same history."""
