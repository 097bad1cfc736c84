"""Hyperdrive: files and folders in two append-only cores."""
