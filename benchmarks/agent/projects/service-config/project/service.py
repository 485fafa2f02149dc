"""The service's configuration."""

import tomllib
from pathlib import Path

FILE = Path(__file__).parent / "service.toml"


def load(file=FILE):
    """The settings; ports are whole numbers."""
    with open(file, "rb") as stream:
        settings = tomllib.load(stream)
    port = settings["server"]["port"]
    if not isinstance(port, int):
        raise ValueError(f"server.port is a number, not {port!r}")
    return settings


def address(settings):
    server = settings["server"]
    return f"{server['host']}:{server['port']}"
