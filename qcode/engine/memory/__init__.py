"""What the engine keeps in memory, and how much of it fits."""
