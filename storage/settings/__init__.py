"""A user's settings: typed, validated, with their keys sealed."""
