"""qcode: a terminal coding agent with its own model engine inside."""

__version__ = "0.1.0"
