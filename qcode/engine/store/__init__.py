"""Named models on this machine, and where their bytes come from."""
