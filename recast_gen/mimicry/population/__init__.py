"""Many networks of one architecture as a population: aligned, in a few codes, and sampled."""
