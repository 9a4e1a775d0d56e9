"""A user's secrets: tokens for git providers and secrets of their own, sealed one by one."""
