"""Who is told of changes: endpoints as callers hold them, and the rows that they are."""
