"""Where log lines go: a rotating file, and stderr when asked. Never stdout."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

_MAX_BYTES = 2 << 20
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(file: Path, *, verbose: bool) -> None:
    """A log file that cannot be written is no reason to stop: the program works without."""
    logging.raiseExceptions = False
    root = logging.getLogger("qcode")
    root.setLevel(logging.INFO)
    root.propagate = False
    handlers: list[logging.Handler] = [logging.StreamHandler()] if verbose else []
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(RotatingFileHandler(file, maxBytes=_MAX_BYTES, backupCount=2, delay=True))
    except OSError:
        handlers.append(logging.NullHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        root.addHandler(handler)
