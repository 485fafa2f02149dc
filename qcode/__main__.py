"""Entry point. `--version` is answered before anything else is imported."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from qcode import __version__

        print(f"qcode {__version__}")
        return
    import gc
    import os

    # Code that happens to be installed beside qcode has no business in it, and looking for it in
    # every distribution takes time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What is loaded lives to the end. Searching it for garbage, many times while it is loaded and
    # once more at the end, would take a tenth of the start and most of the exit.
    gc.disable()
    from qcode.cli.app import app

    gc.enable()
    try:
        app()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
