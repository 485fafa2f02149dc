"""Tokens in, tokens out: the bundled PyTorch engine, usable with no agent in the process."""
