"""git's credential helper over a user's provider tokens, each of which is given to the host that it is sealed for."""
