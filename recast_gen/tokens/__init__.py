"""tokens: layers cut into pieces, thousands of samples from one network, from which layers of any depth are made."""
