"""The project's checks: types, then tests."""

import subprocess
import sys

CHECKS = [
    [sys.executable, "-m", "mypy", "--strict", "--cache-dir=/dev/null", "pricing.py"],
    [sys.executable, "-B", "-m", "unittest", "discover", "-q"],
]

for check in CHECKS:
    done = subprocess.run(check)
    if done.returncode != 0:
        sys.exit(done.returncode)
