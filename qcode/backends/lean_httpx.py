"""httpx without the command line it brings along, which loads rich and click wherever they are
installed. What needs httpx takes it from here."""

import sys

_COMMAND_LINE = "httpx._main"

_absent = _COMMAND_LINE not in sys.modules
if _absent:
    # An entry of None makes the import fail, as where rich and click are missing; httpx goes on.
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]
try:
    import httpx
finally:
    if _absent:
        del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
