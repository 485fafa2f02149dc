"""Rewrites a model in another number format: any checkpoint we read, to GGUF or safetensors."""
