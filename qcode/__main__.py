"""Entry point. `--version` is answered before anything else is imported."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from qcode import __version__

        print(f"qcode {__version__}")
        return
    import gc

    from qcode.cli.app import app

    try:
        app()
    finally:
        # The interpreter ends with a search for garbage among all that was ever loaded, which
        # takes longer than everything else at exit. It finds nothing here.
        gc.freeze()


if __name__ == "__main__":
    main()
