"""How long conversations and events are kept, decided by policies, tried first, and carried out beside everything."""
