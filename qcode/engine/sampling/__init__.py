"""From logits to tokens, and when an answer ends."""
