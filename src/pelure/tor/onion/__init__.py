"""Onion service formats and rules without I/O (rend-spec-v3).

Time periods, the HSDir ring, descriptors, introduction and rendezvous messages. Everything here takes bytes,
clock values and randomness and returns bytes or values.
"""
