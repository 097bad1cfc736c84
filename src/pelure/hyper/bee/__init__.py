"""Hyperbee: a B-tree in an append-only core."""
