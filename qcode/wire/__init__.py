"""Formats other programs speak."""
