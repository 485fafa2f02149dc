"""The interactive program: read a prompt, run a turn, show it."""
