"""Commands, flags, exit codes."""
