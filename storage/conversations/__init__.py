"""Conversations: their metadata, the store that keeps it, and searching."""
