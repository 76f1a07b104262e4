"""Explores small histories exhaustively."""
