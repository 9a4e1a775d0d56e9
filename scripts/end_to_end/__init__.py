"""A real OpenHands server on this storage, driven over HTTP. Run by scripts/openhands_e2e."""
