"""Both header readers on tens of thousands of damaged files: one clear error, or all is readable.

Each format is damaged in two ways: bytes of a real small file are changed, moved or cut off; and
headers are put together anew with extreme counts, lengths, offsets, types and dimensions. One run
of each has a fixed seed, the other a fresh one, which a failure prints.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from random_checkpoint import write_gguf, write_safetensors

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.safetensors import SafetensorsFile
from qcode.protocol.errors import CheckpointError, UnsupportedModel

MUTATIONS = {False: 4000, True: 1500}
"""With the fixed and with a fresh seed: 11,000 a format, in two ways."""

MAX_GROWTH_BYTES = 64 * 2**20
MAX_SECONDS_EACH = 2.0
EXTREMES = (0, 1, 2, 7, 8, 31, 32, 33, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32)
EXTREMES += (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)

Mutate = Callable[[random.Random], bytes]
Read = Callable[[Path], None]


def read_gguf(path: Path) -> None:
    file = GgufFile(path)
    for name in file.tensors:
        file.raw(name).sum()


def read_safetensors(path: Path) -> None:
    file = SafetensorsFile(path)
    for name in file.tensors:
        file.tensor(name).numel()


def damaged(content: bytes, header_bytes: int) -> Mutate:
    """Changes a few places of the header, or cuts the file off anywhere."""

    def mutate(rng: random.Random) -> bytes:
        result = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(min(header_bytes, len(result)))
            match rng.randrange(6):
                case 0:
                    result[place] = rng.randrange(256)
                case 1:
                    result[place] ^= 1 << rng.randrange(8)
                case 2:
                    result[place : place + 8] = struct.pack("<Q", rng.choice(EXTREMES))
                case 3:
                    del result[place : place + rng.randint(1, 16)]
                case 4:
                    result[place:place] = rng.randbytes(rng.randint(1, 16))
                case 5:
                    other = rng.randrange(min(header_bytes, len(result)))
                    result[place : place + 16] = result[other : other + 16]
        if rng.random() < 0.1:
            del result[rng.randrange(len(result)) :]
        return bytes(result) or b"G"

    return mutate


def invented_gguf(rng: random.Random) -> bytes:
    """A header in which any number may be any number."""

    def number(usual: int, bits: int = 64) -> int:
        return rng.choice(EXTREMES) % 2**bits if rng.random() < 0.1 else usual

    def string(text: bytes) -> bytes:
        return struct.pack("<Q", number(len(text))) + text

    def value(kind: int, depth: int) -> bytes:
        if kind == 8:
            return string(b"some text")
        if kind == 9 and depth < 6:
            element, count = rng.randrange(13), rng.randrange(4)
            head = struct.pack("<IQ", number(element, 32), number(count))
            return head + b"".join(value(element, depth + 1) for _ in range(count))
        return rng.randbytes({0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4))

    pairs = []
    for index in range(rng.randrange(4)):
        kind = rng.randrange(13)
        pairs.append(
            string(b"key%d" % index) + struct.pack("<I", number(kind, 32)) + value(kind, 0)
        )
    if rng.random() < 0.3:
        alignment = struct.pack("<II", 4, number(32, 32))
        pairs.append(string(b"general.alignment") + alignment)
    tensors, offset = [], 0
    for index in range(rng.randrange(4)):
        kind, block, size = rng.choice([(0, 1, 4), (1, 1, 2), (2, 32, 18), (12, 256, 144)])
        dims = [number(block), *(number(rng.randint(1, 3)) for _ in range(rng.randrange(3)))]
        info = struct.pack(f"<I{len(dims)}Q", number(len(dims), 32), *dims)
        info += struct.pack("<IQ", number(kind, 32), number(offset))
        tensors.append(string(b"tensor%d" % index) + info)
        count = 1
        for dim in dims:
            count = min(count * dim, 2**20)
        offset += -(-count // block * size // 32) * 32
    head = b"GGUF" + struct.pack(
        "<IQQ", rng.choice([2, 3, 3, 3]), number(len(tensors)), number(len(pairs))
    )
    content = head + b"".join(pairs) + b"".join(tensors)
    return content + bytes(-len(content) % 32 + rng.choice([0, 100, min(offset, 4096)]))


def invented_safetensors(rng: random.Random) -> bytes:
    """A JSON header of entries in which anything may stand."""
    strange = (None, True, -1, 1.5, 1e400, "", "F32", [], {}, [[]], *EXTREMES, 10**400)

    def usually(value: object) -> object:
        return rng.choice(strange) if rng.random() < 0.08 else value

    header: dict[str, object] = {}
    position = 0
    for index in range(rng.randrange(4)):
        dtype, size = rng.choice([("F32", 4), ("BF16", 2), ("U8", 1), ("F8_E4M3", 1), ("I64", 8)])
        shape = [rng.randrange(4) for _ in range(rng.randrange(3))]
        num_bytes = size
        for dim in shape:
            num_bytes *= dim
        entry: dict[str, object] = {
            "dtype": usually(dtype),
            "shape": usually([usually(dim) for dim in shape]),
            "data_offsets": usually([usually(position), usually(position + num_bytes)]),
        }
        if rng.random() < 0.05:
            del entry[rng.choice([*entry])]
        header[f"tensor{index}"] = usually(entry)
        position += num_bytes
    if rng.random() < 0.2:
        header["__metadata__"] = usually({"format": "pt"})
    text = json.dumps(usually(header)).encode()
    length = rng.choice(EXTREMES) if rng.random() < 0.05 else len(text)
    return struct.pack("<Q", length) + text + bytes(max(0, position + rng.choice([0, 0, 0, -1, 1])))


def sample_gguf(path: Path) -> Mutate:
    write_gguf(path, "qwen3_moe", num_hidden_layers=2, matrix_type="Q8_0")
    header_bytes = min(tensor.offset for tensor in GgufFile(path).tensors.values())
    # Where names, counts and dimensions stand: the vocabulary between them is one long array.
    return damaged(path.read_bytes(), header_bytes)


def sample_safetensors(path: Path) -> Mutate:
    content = (write_safetensors(path.with_name("sample")) / "model.safetensors").read_bytes()
    return damaged(content, 8 + int.from_bytes(content[:8], "little"))


WAYS: dict[str, tuple[Read, Callable[[Path], Mutate]]] = {
    "gguf damaged": (read_gguf, sample_gguf),
    "gguf invented": (read_gguf, lambda path: invented_gguf),
    "safetensors damaged": (read_safetensors, sample_safetensors),
    "safetensors invented": (read_safetensors, lambda path: invented_safetensors),
}


@pytest.mark.parametrize("fresh", [False, True], ids=["fixed seed", "fresh seed"])
@pytest.mark.parametrize(("read", "sample"), WAYS.values(), ids=WAYS)
def test_any_header_is_read_or_refused_with_one_error(
    read: Read, sample: Callable[[Path], Mutate], fresh: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.file"
    mutate = sample(path)
    seed = int.from_bytes(os.urandom(4), "little") if fresh else 1
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    messages: list[str] = []
    for index in range(MUTATIONS[fresh]):
        print(f"seed {seed}, mutation {index}")  # the last line tells what failed
        path.write_bytes(mutate(rng))
        started = time.thread_time()
        try:
            read(path)
        except (CheckpointError, UnsupportedModel) as error:
            messages.append(error.message)
        assert time.thread_time() - started < MAX_SECONDS_EACH
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < MAX_GROWTH_BYTES
    assert MUTATIONS[fresh] // 10 < len(messages) < MUTATIONS[fresh]
    assert all("model.file" in message for message in messages)
