"""Thin names over `cryptography`, PyNaCl and hashlib for what Tor's specifications compute (no I/O)."""
