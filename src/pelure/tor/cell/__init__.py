"""Cells and messages to bytes and back (no I/O): the formats of tor-spec, rend-spec-v3 and cert-spec."""
