"""Lays out GGUF files, version 3: the counterpart of `gguf`.

The header, which says where each tensor lies, is made first; the tensors' bytes follow in any
order. Format: the GGUF specification of the ggml project.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from math import prod

from qcode.engine.checkpoint.gguf import (
    ARRAY,
    BOOL,
    MAGIC,
    SCALAR_CODES,
    STRING,
    GgufTensor,
    MetadataValue,
)
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType

VERSION = 3
ALIGNMENT = 32
_CODE_IDS = {code: kind for kind, code in SCALAR_CODES.items()}


class GgufLayout:
    """`header` opens the file; each of `tensors` begins at its `offset`."""

    def __init__(
        self,
        metadata: Mapping[str, MetadataValue],
        tensors: Sequence[tuple[str, tuple[int, ...], GgmlType]],
    ) -> None:
        """`tensors` are (name, shape with the contiguous axis last, type).

        Raises ValueError for rows that are not whole blocks of their type.
        """
        infos = []
        position = 0
        for name, shape, kind in tensors:
            num_bytes = _tensor_bytes(shape, kind)
            infos.append((name, shape, kind, position, num_bytes))
            position = _aligned(position + num_bytes)
        header = b"".join(
            (
                MAGIC,
                struct.pack("<IQQ", VERSION, len(infos), len(metadata)),
                *(_string(key) + _value(value) for key, value in metadata.items()),
                *(_tensor_info(name, shape, kind, at) for name, shape, kind, at, _ in infos),
            )
        )
        start = _aligned(len(header))
        self.header = header.ljust(start, b"\0")
        self.tensors = {
            name: GgufTensor(
                name=name, ggml_type=kind, shape=shape, offset=start + at, num_bytes=num_bytes
            )
            for name, shape, kind, at, num_bytes in infos
        }
        self.num_bytes = start + position
        """Of the whole file, the padding after the last tensor included."""


def _tensor_bytes(shape: tuple[int, ...], kind: GgmlType) -> int:
    layout = BLOCK_LAYOUTS[kind]
    if shape[-1] % layout.block_size:
        raise ValueError(f"a row of {shape[-1]} values is not whole blocks of {layout.name}")
    return prod(shape) // layout.block_size * layout.block_bytes


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _tensor_info(name: str, shape: tuple[int, ...], kind: GgmlType, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _string(name) + dims + struct.pack("<IQ", kind, offset)


def _string(text: str) -> bytes:
    encoded = text.encode(errors="replace")
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: MetadataValue) -> bytes:
    """Type and content. Numbers take the types readers ask for: uint32, int32 and float32."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        code = _integer_code(value)
        return struct.pack("<I" + code, _CODE_IDS[code], value)
    if isinstance(value, float):
        return struct.pack("<If", _CODE_IDS["f"], value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    return struct.pack("<I", ARRAY) + _array(value)


def _array(values: Sequence[MetadataValue]) -> bytes:
    if isinstance(values, array):
        kind, items = _CODE_IDS[values.typecode], values.tobytes()
    elif all(isinstance(value, str) for value in values):
        kind, items = STRING, b"".join(_string(str(value)) for value in values)
    elif all(isinstance(value, bool) for value in values):
        kind, items = BOOL, bytes(bool(value) for value in values)
    else:
        # What stands before each single value, its type, stands here once for all of them.
        encoded = [_value(value) for value in values]
        [kind_bytes] = {item[:4] for item in encoded}
        kind, items = int.from_bytes(kind_bytes, "little"), b"".join(i[4:] for i in encoded)
    return struct.pack("<IQ", kind, len(values)) + items


def _integer_code(value: int) -> str:
    """The struct code of the first type that holds it."""
    fits = {"I": (0, 2**32), "i": (-(2**31), 2**31), "Q": (0, 2**64), "q": (-(2**63), 2**63)}
    for code, (low, high) in fits.items():
        if low <= value < high:
            return code
    raise ValueError(f"no GGUF type holds {value}")
