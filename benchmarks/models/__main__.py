"""Writes docs/reference/models.md: `python -m benchmarks.models [--write FILE] [--only TITLE]`.

Takes some minutes. The last table needs the real model files in QCODE_TEST_MODELS.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from transformers.utils import logging

from benchmarks.models.page import INTRODUCTION, render, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="instead of standard output")
    parser.add_argument("--only", metavar="TITLE", help="one table, by the beginning of its title")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    wanted = [table for table in tables() if table.title.startswith(arguments.only or "")]
    with tempfile.TemporaryDirectory() as folder:
        parts = [render(table, Path(folder), _tell) for table in wanted]
    page = "\n".join(parts if arguments.only else [INTRODUCTION, *parts])
    if arguments.write is None:
        print(page)
    else:
        arguments.write.write_text(page, encoding="utf-8")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
