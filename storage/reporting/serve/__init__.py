"""Datasette over the report views: what is served is a copy of their rows, in a file that holds nothing else."""
