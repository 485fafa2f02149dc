"""The vocabulary every other package speaks: values and seams, and nothing that acts."""
