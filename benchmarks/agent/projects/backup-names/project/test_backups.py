from pathlib import Path

from backups import backup_path, next_backup


def test_plain_name():
    assert backup_path("notes.txt", 2) == Path("notes.2.txt")


def test_keeps_directory(tmp_path):
    assert backup_path(tmp_path / "notes.txt", 1) == tmp_path / "notes.1.txt"


def test_next_backup(tmp_path):
    note = tmp_path / "notes.txt"
    backup_path(note, 1).write_text("old")
    assert next_backup(note).name == "notes.2.txt"
