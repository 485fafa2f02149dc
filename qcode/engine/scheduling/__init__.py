"""Which sequences run next, and which blocks and states are theirs."""
