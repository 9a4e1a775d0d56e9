"""A user's files: backends that keep bytes at paths, and the catalogue that makes them part of a transaction."""
