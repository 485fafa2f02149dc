"""Which folders' own settings count. A folder is trusted by its real path, and exactly that one."""

from __future__ import annotations

import os
from pathlib import Path

from qcode.config.locations import Locations
from qcode.protocol.errors import SettingsError


def is_trusted(folder: Path, locations: Locations) -> bool:
    return str(folder.resolve()) in _listed(locations.trusted_folders)


def trust(folder: Path, locations: Locations) -> None:
    listed = _listed(locations.trusted_folders)
    _write(locations.trusted_folders, [*listed, str(folder.resolve())])


def distrust(folder: Path, locations: Locations) -> None:
    listed = _listed(locations.trusted_folders)
    _write(locations.trusted_folders, [path for path in listed if path != str(folder.resolve())])


def _listed(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error


def _write(file: Path, paths: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text("".join(f"{path}\n" for path in dict.fromkeys(paths)), encoding="utf-8")
    temporary.replace(file)
