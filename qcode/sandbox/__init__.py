"""The paths and processes tools may touch."""
