"""What the model can do: one module for each tool, named as the model calls it."""
