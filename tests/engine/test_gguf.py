"""The GGUF reader: reads what the gguf package writes, and survives whatever else is in a file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.protocol.errors import CheckpointError

U8, U32, BOOL, STRING, ARRAY = 0, 4, 7, 8, 9


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(
    name: bytes, dims: Sequence[int] = (32,), kind: int = 0, offset: int = 0, num_dims: int = -1
) -> bytes:
    count = len(dims) if num_dims < 0 else num_dims
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


def build(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    num_pairs: int | None = None,
    num_tensors: int | None = None,
) -> bytes:
    count = len(pairs) if num_pairs is None else num_pairs
    header = b"GGUF" + struct.pack("<I", version)
    header += struct.pack("<QQ", len(tensors) if num_tensors is None else num_tensors, count)
    content = header + b"".join(pairs) + b"".join(tensors)
    return content + b"\0" * (-len(content) % 32) + data


def opened(content: bytes, path: Path) -> GgufFile:
    file = path / "model.gguf"
    file.write_bytes(content)
    return GgufFile(file)


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_uint8("a.u8", 200)
    writer.add_int32("a.i32", -5)
    writer.add_uint64("a.u64", 2**40)
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 1e300)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "naïve ✓")
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.strings", ["one", "", "drei"])
    writer.add_array("a.flags", [True, False])
    plain = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    rows = np.random.default_rng(0).standard_normal((5, 64), dtype=np.float32)
    packed = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("plain", plain)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GgufFile(path)
    assert file.metadata["general.architecture"] == "qwen3"
    numbers = [file.metadata[f"a.{kind}"] for kind in ("u8", "i32", "u64", "f32", "f64", "bool")]
    assert numbers == [200, -5, 2**40, 0.5, 1e300, True]
    assert file.metadata["a.string"] == "naïve ✓"
    assert list(file.metadata["a.numbers"]) == [1, -2, 3]
    assert file.metadata["a.strings"] == ["one", "", "drei"]
    assert file.metadata["a.flags"] == [True, False]
    assert file.tensors["plain"].shape == (2, 3, 4)
    assert file.raw("plain").view(torch.float32).tolist() == plain.flatten().tolist()
    assert file.tensors["packed"].shape == (5, 64)
    assert file.raw("packed").numpy().tobytes() == packed.tobytes()


def test_version_2_and_another_alignment(tmp_path: Path) -> None:
    pairs = [pair(b"general.alignment", U32, struct.pack("<I", 64))]
    content = build(pairs, [tensor(b"t", (4,), offset=64)], version=2)
    content += b"\0" * (-len(content) % 64 + 64) + struct.pack("<4f", 1, 2, 3, 4)
    file = opened(content, tmp_path)
    assert file.raw("t").view(torch.float32).tolist() == [1, 2, 3, 4]


def test_tensors_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    file = opened(build([], [tensor(b"t", (1024,))], bytes(4096)), tmp_path)
    assert file.raw("t").untyped_storage().nbytes() == file.path.stat().st_size


HUGE = 2**63
DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "other magic": (b"GGML" + bytes(60), "not a GGUF file"),
    "old version": (build(version=1), "version 1"),
    "big-endian version": (build(version=3 << 24), "version"),
    "header cut": (build()[:11], "breaks off"),
    "too many tensors": (build(num_tensors=HUGE), "cannot fit"),
    "too many pairs": (build(num_pairs=HUGE), "cannot fit"),
    "one pair too many": (build([pair(b"a", U8, b"\1")], num_pairs=2), "a name of 0 bytes"),
    "long key": (build([struct.pack("<Q", 65537) + bytes(70000)]), "a name of 65537 bytes"),
    "huge key": (build([struct.pack("<Q", HUGE) + bytes(64)]), "a name of"),
    "key not text": (build([pair(b"\xff\xfe", U8, b"\1")]), "not UTF-8"),
    "same key twice": (build([pair(b"a", U8, b"\1")] * 2), "'a' appears twice"),
    "unknown value type": (build([pair(b"a", 13, bytes(8))]), "unknown metadata type 13"),
    "huge string": (build([pair(b"a", STRING, struct.pack("<Q", HUGE))]), "breaks off"),
    "boolean 2": (build([pair(b"a", BOOL, b"\2")]), "boolean"),
    "huge array": (build([pair(b"a", ARRAY, struct.pack("<IQ", U8, HUGE))]), "breaks off"),
    "huge string array": (build([pair(b"a", ARRAY, struct.pack("<IQ", STRING, HUGE))]), "fit"),
    "string array cut": (
        build([pair(b"a", ARRAY, struct.pack("<IQQ", STRING, 2, 2**40))], data=bytes(64)),
        "breaks off",
    ),
    "deep arrays": (build([pair(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 50)]), "deeply"),
    "alignment 0": (
        build([pair(b"general.alignment", U32, bytes(4))], [tensor(b"t")], bytes(128)),
        "alignment",
    ),
    "alignment text": (
        build([pair(b"general.alignment", STRING, string(b"x"))], [tensor(b"t")], bytes(128)),
        "alignment",
    ),
    "no dimensions": (build([], [tensor(b"t", ())], bytes(128)), "'t' has 0 dimensions"),
    "nine dimensions": (build([], [tensor(b"t", (1,) * 9)], bytes(128)), "'t' has 9"),
    "many dimensions": (build([], [tensor(b"t", (1,), num_dims=2**31)], bytes(128)), "'t' has"),
    "zero dimension": (build([], [tensor(b"t", (32, 0))], bytes(128)), "'t'.*shape"),
    "product overflows": (build([], [tensor(b"t", (2**32, 2**32))], bytes(128)), "'t' reaches"),
    "ragged blocks": (build([], [tensor(b"t", (33,), kind=8)], bytes(128)), "'t'.*Q8_0.*33"),
    "unknown tensor type": (build([], [tensor(b"t", kind=4)], bytes(128)), "'t'.*type 4"),
    "not aligned": (build([], [tensor(b"t", offset=16)], bytes(256)), "'t' is not aligned"),
    "past the end": (build([], [tensor(b"t")], bytes(127)), "'t' reaches past the end"),
    "offset past the end": (build([], [tensor(b"t", offset=HUGE)], bytes(128)), "'t' reaches"),
    "same tensor twice": (build([], [tensor(b"t")] * 2, bytes(128)), "same name"),
    "overlapping": (
        build([], [tensor(b"t"), tensor(b"u", offset=96)], bytes(256)),
        "'t' and 'u' overlap",
    ),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        opened(content, tmp_path)
    assert "model.gguf" in error.value.message


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError):
        GgufFile(tmp_path / "model.gguf")


def test_a_file_cut_while_in_use_is_an_error_and_no_crash(tmp_path: Path) -> None:
    file = opened(build([], [tensor(b"t", (4096,))], bytes(4 * 4096)), tmp_path)
    os.truncate(file.path, 64)
    with pytest.raises(CheckpointError, match="cut short"):
        file.raw("t")


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<IQ", BOOL, 5_000_000) + bytes(5_000_000),
        struct.pack("<IQ", STRING, 5_000_000) + bytes(8 * 5_000_000),
    ],
    ids=["flags", "strings"],
)
def test_metadata_that_would_take_many_times_its_size(value: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="more than 4194304 values in the metadata"):
        opened(build([pair(b"k", ARRAY, value)]), tmp_path)
