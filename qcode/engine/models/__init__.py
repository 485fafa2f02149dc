"""The networks, each one file from top to bottom, and how they are loaded."""
