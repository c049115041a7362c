"""Studies of template and group counts: which bank is the smallest that keeps the network as it is."""
