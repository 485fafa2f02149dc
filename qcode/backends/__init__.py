"""Model access: the bundled engine, any Chat Completions URL, a script."""

import sys

# httpx brings a command line of its own, which loads rich and click wherever they are installed.
# An entry of None makes that import fail, as it does where they are not, and httpx goes on.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
