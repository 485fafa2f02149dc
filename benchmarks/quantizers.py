"""Our quantisers beside ggml's: `python -m benchmarks.quantizers [MODEL.gguf]`.

Prints, for each type, the relative error (root mean square) both leave on random weights, and on
rows of a model's own matrices if one is given, and the weights a second of processor time. ggml's
quantisers are those in the library of llama-cpp-python, which must be installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml import dequantize
from qcode.engine.quantization.ggml_encoders import ENCODERS, encode

ROWS, WIDTH = 2048, 1024


def main() -> None:
    torch.set_num_threads(1)
    ggml = ggml_library()
    print(f"{'weights':<22} {'type':<5} {'ours':>9} {'ggml':>9} {'ratio':>7} {'M/s':>6} {'M/s':>6}")
    for name, rows in samples():
        for kind in ENCODERS:
            if rows.shape[1] % BLOCK_LAYOUTS[kind].block_size:
                continue
            encoded, seconds = timed(encode, rows, kind)
            theirs, their_seconds = timed(partial(ggml_encode, ggml), rows, kind)
            error, their_error = (relative_error(e, kind, rows) for e in (encoded, theirs))
            print(
                f"{name:<22} {kind.name:<5} {error:>9.6f} {their_error:>9.6f} "
                f"{error / their_error:>7.4f} {rows.numel() / seconds / 1e6:>6.1f} "
                f"{rows.numel() / their_seconds / 1e6:>6.1f}"
            )


def samples() -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(ROWS, WIDTH, generator=generator) * 0.02
    yield "normal", normal
    uniform = torch.rand(ROWS, WIDTH, generator=generator) - 0.5
    yield "laplace", -uniform.sign() * torch.log1p(-2 * uniform.abs()) * 0.01
    chi = torch.randn(3, ROWS, WIDTH, generator=generator).square().mean(0).sqrt()
    yield "student, 3 degrees", normal / chi
    for path in sys.argv[1:]:
        file = GgufFile(Path(path))
        for name in ("blk.0.attn_q.weight", "blk.5.ffn_down.weight", "blk.9.ffn_up.weight"):
            info = file.tensors[name]
            yield name, dequantize(file.raw(name), info.ggml_type, info.shape)


def relative_error(encoded: Tensor, kind: GgmlType, rows: Tensor) -> float:
    difference = dequantize(encoded, kind, tuple(rows.shape)) - rows
    return float(difference.norm() / rows.norm())


def timed(
    quantise: Callable[[Tensor, GgmlType], Tensor], rows: Tensor, kind: GgmlType
) -> tuple[Tensor, float]:
    """The encoded rows, and the seconds of processor time they took."""
    start = time.process_time()
    return quantise(rows, kind), time.process_time() - start


def ggml_library() -> ctypes.CDLL:
    package = importlib.util.find_spec("llama_cpp")
    if package is None or package.origin is None:
        raise SystemExit("llama-cpp-python is not installed")
    [path] = (Path(package.origin).parent / "lib").glob("libggml-base.so")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    return library


def ggml_encode(library: ctypes.CDLL, rows: Tensor, kind: GgmlType) -> Tensor:
    rows = rows.contiguous()
    layout = BLOCK_LAYOUTS[kind]
    encoded = torch.empty(rows.numel() // layout.block_size * layout.block_bytes, dtype=torch.uint8)
    library.ggml_quantize_chunk(
        int(kind), rows.data_ptr(), encoded.data_ptr(), 0, rows.shape[0], rows.shape[1], None
    )
    return encoded


if __name__ == "__main__":
    main()
