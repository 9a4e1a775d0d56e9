"""What an operator does with everyone's files: count, verify, collect, repack, move to another backend."""
