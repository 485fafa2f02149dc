"""Names and places of backup files."""

from pathlib import Path


def backup_path(path, number):
    """`notes.txt`, 2 -> `notes.2.txt`, in the same directory."""
    path = Path(path)
    if number < 1:
        raise ValueError("backups are numbered from 1")
    return Path(f"{path.stem}.{number}{path.suffix}")


def next_backup(path):
    """The first backup path that does not exist yet."""
    number = 1
    while backup_path(path, number).exists():
        number += 1
    return backup_path(path, number)
