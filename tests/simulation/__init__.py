"""Whole histories of several workers in simulated time, from a seed: the same seed gives the same history."""
