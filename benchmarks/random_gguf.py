"""Writes a GGUF file with random weights and the true sizes of a published network.

`python -m benchmarks.random_gguf TARGET.gguf --geometry qwen3-coder-30b-a3b --vocabulary REAL.gguf`

For measuring the speed of models that are not at hand: what a token costs depends on the sizes and
the number formats of the matrices, not on what they hold. `--layers` makes a shallower network that
fits the memory; two depths give the cost of a layer. Types follow the rules of `qcode model
quantize`, which for q4_k_m are llama.cpp's. The tokenizer is that of another GGUF file.

Normally distributed values are encoded once for each type, and every matrix is a stretch of those
blocks from a random place on, so that writing is as fast as the disk. The number of blocks is a
prime above the rows of every matrix, so that no two rows of one are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt, prod
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from benchmarks.geometries import GEOMETRIES, Geometry
from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.checkpoint.gguf import GgufFile, MetadataValue
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.checkpoint.names import gguf_name
from qcode.engine.conversion.formats import FORMATS, OutputFormat, ggml_type_of
from qcode.engine.conversion.gguf_metadata import QUANTIZATION_VERSION, network_metadata
from qcode.engine.conversion.network_tensors import NetworkTensor, network_tensors
from qcode.engine.model_config import ModelConfig
from qcode.engine.quantization.block_layouts import BLOCK_LAYOUTS, GgmlType
from qcode.engine.quantization.ggml_encoders import encode
from qcode.engine.quantization.weight_format import Weight
from qcode.protocol.errors import CheckpointError

DEVIATION = 0.02
"""Of weights: what these networks are initialised with."""

EMBEDDING_DEVIATION = 1.0
MIXING_DEVIATION = 0.0005
"""Of what joins tokens. Untrained attention is an average over the text, alike for all tokens; if
it outweighed the tokens themselves, all would go to the same experts."""

UNUSED_TOKEN = 5
"""The kind of tokens that fill an embedding up."""


def write_random_gguf(
    target: Path,
    *,
    geometry: Geometry,
    vocabulary: Path,
    output: OutputFormat,
    num_layers: int | None = None,
) -> int:
    """Writes `target` and returns its size in bytes. Takes little memory, whatever the size.

    `geometry` is what a `config.json` holds, `vocabulary` a GGUF file to take the tokenizer from.
    Raises CheckpointError, UnsupportedModel and OSError.
    """
    if num_layers is not None:
        geometry = {**geometry, "num_hidden_layers": num_layers}
    config = config_from_json(geometry, {}, "the geometry")
    tensors = network_tensors(_Unwritten(target, config))
    layout = GgufLayout(
        network_metadata(config)
        | {
            "general.type": "model",
            "general.name": target.stem,
            "general.file_type": output.file_type,
            "general.quantization_version": QUANTIZATION_VERSION,
        }
        | _tokenizer(vocabulary, config.vocab_size),
        [
            (gguf_name(x.name, config.architecture), x.shape, _type_of(x, config, output))
            for x in tensors
        ],
    )
    weights = _RandomWeights(max(prod(x.shape[:-1]) for x in tensors))
    with target.open("wb") as file:
        file.write(layout.header)
        for tensor in tensors:
            place = layout.tensors[gguf_name(tensor.name, config.architecture)]
            file.seek(place.offset)
            if tensor.kind == "values":
                file.write(_bytes_of(weights.values(tensor)))
                continue
            kind = GgmlType(place.ggml_type)
            for piece in weights.blocks(kind, _deviation(tensor.name), place.num_bytes):
                file.write(piece)
        file.truncate(layout.num_bytes)
    return layout.num_bytes


def _type_of(tensor: NetworkTensor, config: ModelConfig, output: OutputFormat) -> GgmlType:
    if tensor.kind == "values":
        return GgmlType.F32
    return ggml_type_of(
        output,
        tensor.name,
        tensor.shape[-1],
        num_layers=config.num_layers,
        tied=config.tie_word_embeddings,
    )


def _deviation(name: str) -> float:
    if name == "model.embed_tokens.weight":
        return EMBEDDING_DEVIATION
    return MIXING_DEVIATION if name.endswith(("o_proj.weight", "out_proj.weight")) else DEVIATION


def _tokenizer(path: Path, vocab_size: int) -> dict[str, MetadataValue]:
    """The tokenizer of a GGUF file, with as many tokens as the embedding has rows."""
    metadata = {
        key: value for key, value in GgufFile(path).metadata.items() if key.startswith("tokenizer.")
    }
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, Sequence)
    assert isinstance(kinds, Sequence)
    missing = range(len(tokens), vocab_size)
    metadata["tokenizer.ggml.tokens"] = [*tokens[:vocab_size], *(f"[PAD{i}]" for i in missing)]
    metadata["tokenizer.ggml.token_type"] = array(
        "i", [*(int(str(kind)) for kind in kinds[:vocab_size]), *(UNUSED_TOKEN for _ in missing)]
    )
    return metadata


class _RandomWeights:
    def __init__(self, most_rows: int) -> None:
        self._num_blocks = _prime_above(most_rows)
        self._generator = torch.Generator().manual_seed(0)
        self._blocks: dict[tuple[GgmlType, float], memoryview] = {}

    def values(self, tensor: NetworkTensor) -> Tensor:
        """Vectors, in float32: norms about one, decays below zero, biases about zero."""
        if tensor.name.endswith("norm.weight"):
            return torch.rand(tensor.shape, generator=self._generator) + 0.5
        if tensor.name.endswith(".A"):
            return -8 * torch.rand(tensor.shape, generator=self._generator) - 0.1
        return torch.randn(tensor.shape, generator=self._generator) * 10 * DEVIATION

    def blocks(self, kind: GgmlType, deviation: float, num_bytes: int) -> Iterator[memoryview]:
        """So many bytes of whole blocks, from a random place in the stock of this type."""
        stock = self._stock(kind, deviation)
        block_bytes = BLOCK_LAYOUTS[kind].block_bytes
        first = int(torch.randint(self._num_blocks, (), generator=self._generator)) * block_bytes
        while num_bytes:
            piece = stock[first : first + num_bytes]
            yield piece
            num_bytes -= len(piece)
            first = 0

    def _stock(self, kind: GgmlType, deviation: float) -> memoryview:
        if (kind, deviation) not in self._blocks:
            block_size = BLOCK_LAYOUTS[kind].block_size
            values = torch.randn(self._num_blocks, block_size, generator=self._generator)
            self._blocks[kind, deviation] = _bytes_of(encode(values * deviation, kind))
        return self._blocks[kind, deviation]


def _prime_above(number: int) -> int:
    candidate = number + 1
    while any(candidate % divisor == 0 for divisor in range(2, isqrt(candidate) + 1)):
        candidate += 1
    return candidate


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().numpy().data.cast("B")


class _Unwritten:
    """The checkpoint that a file will be: its network can be asked for, its weights cannot."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self.path = path
        self.config = config

    def has(self, name: str) -> bool:
        return False

    def format_mix(self) -> Mapping[str, int]:
        return {}

    def weight(self, name: str, shape: tuple[int, int]) -> Weight:
        self._refuse(name)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        self._refuse(name)

    def experts(self, name: str, shape: tuple[int, int, int]) -> list[Weight]:
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {name} is not written yet")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--geometry",
        default="qwen3-coder-30b-a3b",
        help=f"{', '.join(GEOMETRIES)}, or a config.json (default: %(default)s)",
    )
    parser.add_argument("--layers", type=int, help="how many, if not all")
    parser.add_argument(
        "--format", choices=[x.name for x in FORMATS.values() if x.ggml_type], default="q4_k_m"
    )
    parser.add_argument(
        "--vocabulary", type=Path, required=True, help="a GGUF file of the Qwen family"
    )
    arguments = parser.parse_args()
    named = GEOMETRIES.get(arguments.geometry)
    began = time.monotonic()
    try:
        num_bytes = write_random_gguf(
            arguments.target,
            geometry=named or json.loads(Path(arguments.geometry).read_text()),
            vocabulary=arguments.vocabulary,
            output=FORMATS[arguments.format],
            num_layers=arguments.layers,
        )
    except (CheckpointError, OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{arguments.target}: {num_bytes / 1e9:.2f} GB in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
