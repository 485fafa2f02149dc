"""One digest of everything that changes the values in a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import qcode
from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.kernels import library
from qcode.engine.kernels.build import library_name
from qcode.engine.model_config import ModelConfig
from qcode.engine.scheduling.prefix_digest import DIGEST_BYTES

REVISION = 1
"""To be raised by every change of the layout of blocks, or of the mathematics, that the rest of
the fingerprint does not show."""
_NUM_SAMPLES = 256
_SAMPLE_BYTES = 4096


def weights_digest(path: Path) -> bytes:
    """Of a GGUF file, all parts of a split one, or a checkpoint's folder: sizes, times of change,
    and samples of the content that are spread over each file. Reading 17 GB at each start would
    cost more than a prefix; whoever changes a file changes its time too. Raises OSError."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for file in _files(path):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        step = max(_SAMPLE_BYTES, status.st_size // _NUM_SAMPLES)
        with file.open("rb", buffering=0) as stream:
            for offset in range(0, status.st_size, step):
                stream.seek(offset)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.digest()


def fingerprint(
    *, weights: bytes, config: ModelConfig, layouts: Iterable[object], numerics: Iterable[str]
) -> bytes:
    """`config` has rope, YaRN and window in it; `layouts` are those of the caches' rows and
    `numerics` says what products are computed in."""
    stated = [
        REVISION,
        qcode.__version__,
        weights.hex(),
        _plain(asdict(config)),
        list(layouts),
        list(numerics),
        _kernels(),
    ]
    text = json.dumps(stated, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.safetensors")) + sorted(path.glob("*.json"))
    return [path.with_name(name) for name in split_part_names(path.name)] or [path]


def _plain(value: object) -> object:
    """As JSON has it, and the same in each process: sets in order."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


def _kernels() -> str:
    """Which machine code computes: two builds may round differently."""
    installed = library.installed()
    if installed is None:
        return "torch"
    code = (library.DIRECTORY / library_name(installed.variant)).read_bytes()
    return f"{installed.variant} {hashlib.blake2b(code, digest_size=DIGEST_BYTES).hexdigest()}"
