"""Entry point. `--version` is answered before anything else is imported."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from qcode import __version__

        print(f"qcode {__version__}")
        return
    from qcode.cli.app import app

    app()


if __name__ == "__main__":
    main()
