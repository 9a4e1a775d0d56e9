"""Read-only questions over everything stored: what it cost, how much there is."""
