"""How files of packed weights are called, for who only wants to see or delete them."""

from __future__ import annotations

from pathlib import Path

from qcode.engine.checkpoint.split_names import split_part_names

SUFFIX = ".packed"


def packed_name(model: Path, layout: str) -> str:
    return f"{model.name}.{layout}{SUFFIX}"


def own_path(model: Path) -> Path:
    """The path by which a model's file is known: where a link leads, except that the parts of a
    split model are found by their names."""
    return model if split_part_names(model.name) else model.resolve()


def packed_beside(model: Path) -> list[Path]:
    """The files of packed weights in a model's folder, for whatever machine, also those of other
    versions of it."""
    model = own_path(model)
    return packed_in(model.parent, f"{model.name}.")


def packed_in(folder: Path, beginning: str) -> list[Path]:
    """Those in a folder whose names have this beginning; none where it cannot be read."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.name.startswith(beginning) and path.suffix == SUFFIX]
