"""What a process does to deliver: it claims, puts together, sends and settles, and is woken when there is something."""
