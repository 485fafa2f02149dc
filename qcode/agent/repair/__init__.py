"""Repairing what a test or a command says is broken, led by the harness."""
