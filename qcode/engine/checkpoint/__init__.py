"""Model files as named weights: what is on disk, checked and mapped, under one set of names."""
