"""Web hooks: the outbox that records every committed change, and the tables of those who want to hear of it."""
