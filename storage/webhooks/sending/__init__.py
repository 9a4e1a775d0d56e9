"""One request over the network: to whom it may go, how it is signed and sent, and how a receiver verifies it."""
