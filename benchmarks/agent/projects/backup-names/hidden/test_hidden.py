from pathlib import Path

from backups import backup_path


def test_more_places():
    assert backup_path("a/b/c.md", 3) == Path("a/b/c.3.md")
    assert backup_path(Path("/srv/data.csv"), 10) == Path("/srv/data.10.csv")
    assert backup_path("README", 1) == Path("README.1")
