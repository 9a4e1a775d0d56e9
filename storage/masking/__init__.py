"""Masking: what a user's secrets look like in any text, and their removal from it before it is stored or announced."""
