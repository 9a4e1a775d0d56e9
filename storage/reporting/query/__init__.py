"""Questions in SQL over the report views: read-only and bounded, and held to it by the database itself."""
