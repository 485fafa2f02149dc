"""Which models and formats run, and how exactly: the checks behind docs/reference/models.md."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent.parent / "tests"

# The checks load the same random checkpoints as the tests do, so that nothing is measured here
# that the tests do not hold; tests/ is no package, its modules are found by their own names.
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))
