"""Text in, text out: prompts from conversations, calls from answers. No tensors, no token ids."""
