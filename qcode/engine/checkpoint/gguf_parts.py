"""A model in one GGUF file, or split into several, as one set of metadata and tensors.

Every part of a split model says which part it is (`split.no`, from 0), how many there are
(`split.count`) and how many tensors all of them hold (`split.tensors.count`); the rest of the
metadata stands in the first. Written by llama.cpp's `gguf-split`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from qcode.engine.checkpoint.gguf import GgufFile, GgufTensor, MetadataValue
from qcode.engine.checkpoint.split_names import split_part_names
from qcode.protocol.errors import CheckpointError

_IDENTITY = ("general.architecture", "general.name", "general.basename", "general.size_label")
"""What parts of one model cannot say differently."""


class GgufParts:
    """All parts of a model, mapped."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, or any part of a split model.

        Raises CheckpointError naming the file that is missing, damaged or of another model.
        """
        self.files = _open_parts(path)
        self.path = self.files[0].path
        self.metadata: Mapping[str, MetadataValue] = self.files[0].metadata
        self.tensors: dict[str, GgufTensor] = {}
        self._file_of: dict[str, GgufFile] = {}
        for file in self.files:
            for name, tensor in file.tensors.items():
                if name in self.tensors:
                    first = self._file_of[name].path.name
                    raise CheckpointError(f"{file.path}: tensor {name!r} is in {first} too")
                self.tensors[name] = tensor
                self._file_of[name] = file
        _check_tensor_count(self.files, len(self.tensors))

    def raw(self, name: str) -> Tensor:
        """[num_bytes] uint8: the packed bytes of a tensor. Raises CheckpointError."""
        return self._file_of[name].raw(name)

    def check(self) -> None:
        """Raises CheckpointError when a file has been cut since it was opened."""
        for file in self.files:
            file.check()

    def path_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._file_of[name].path

    def release(self, name: str) -> None:
        """Let go of the memory behind a tensor whose bytes have been copied elsewhere."""
        self._file_of[name].release(name)


def _open_parts(path: Path) -> Sequence[GgufFile]:
    given = GgufFile(path)
    count = _number(given, "split.count", default=1)
    if count == 1:
        return [given]
    names = split_part_names(path.name)
    if len(names) != count:
        raise CheckpointError(
            f"{path}: it is one of {count} parts, but its name does not say which",
            "Parts are found by name: MODEL-00001-of-00003.gguf and so on, in one folder.",
        )
    files: list[GgufFile] = []
    for index, name in enumerate(names):
        part = path.with_name(name)
        if not part.exists():
            raise CheckpointError(
                f"{part}: part {index + 1} of {count} is missing",
                "All parts of a split model must be in one folder.",
            )
        file = given if name == path.name else GgufFile(part)
        _check_part(file, files[0] if files else file, index, count)
        files.append(file)
    return files


def _check_part(file: GgufFile, first: GgufFile, index: int, count: int) -> None:
    """Raises CheckpointError if a file is not the part its name says."""
    stated = _number(file, "split.count", default=1)
    if stated != count:
        raise CheckpointError(f"{file.path}: it is one of {stated} parts, the others of {count}")
    number = _number(file, "split.no", default=-1)
    if number != index:
        raise CheckpointError(f"{file.path}: it says to be part {number + 1}, not {index + 1}")
    for key in (*_IDENTITY, "split.tensors.count"):
        theirs, ours = first.metadata.get(key), file.metadata.get(key)
        if ours is not None and ours != theirs:
            raise CheckpointError(
                f"{file.path}: a part of another model: {key} is {ours!r}, but {theirs!r} in "
                f"{first.path.name}"
            )


def _check_tensor_count(files: Sequence[GgufFile], num_tensors: int) -> None:
    first = files[0]
    stated = _number(first, "split.tensors.count", default=num_tensors)
    if len(files) > 1 and stated != num_tensors:
        raise CheckpointError(
            f"{first.path}: all parts together should hold {stated} tensors, but hold {num_tensors}"
        )


def _number(file: GgufFile, key: str, *, default: int) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < min(default, 0):
        raise CheckpointError(f"{file.path}: {key} is {value!r}, not a count")
    # Writers say 0 or 1 for a model in one file.
    return max(value, 1) if key == "split.count" else value
