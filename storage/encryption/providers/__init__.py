"""Who holds the master keys: the interface, four providers of our own, and bundles to carry keys away."""
