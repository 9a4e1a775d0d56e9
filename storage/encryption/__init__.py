"""Sealed secrets: the envelope format, the keys and who holds them, and the list of sealed columns."""
