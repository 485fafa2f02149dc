"""Tokens in, tokens out: the bundled PyTorch engine, usable with no agent in the process."""

import os

# torch's OpenMP threads wait by spinning, which on a busy machine takes the core from the thread
# they wait for: steps then take up to ten times as long. OpenMP reads this once, when torch loads.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
