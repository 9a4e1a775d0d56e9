"""Changing keys while everything runs, and finding what does not open."""
