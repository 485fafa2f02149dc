"""The turn loop, sessions and permissions."""
