"""Hyperblobs: file contents in the blocks of a core."""
