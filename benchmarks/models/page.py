"""docs/reference/models.md: its tables, each row computed by a check."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import architectures, formats, published, real_files
from benchmarks.models.formats import FormatCheck
from benchmarks.models.published import PublishedModel

INTRODUCTION = """# Models and formats

Written by `python -m benchmarks.models --write docs/reference/models.md`, which runs every check
below; a test holds that the rows are those of the command. Tiny models have random weights, the
same each time. Errors of logits are the largest difference as a share of the largest logit;
1e-4 is the most that the tests allow in float32.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`check` fills the cells after the first; it is given an empty folder for files."""

    name: str
    check: Callable[[Path], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Row]


def tables() -> list[Table]:
    return [
        Table(
            title="Architectures",
            text="""\
The engine beside transformers, both in float32: a text read at once, read in chunks of at most
7 tokens, an answer of 24 tokens decoded one by one, three requests of different lengths in a batch,
an answer that goes on from a cached one, and one that goes back to the middle of it. Qwen3-Next
reuses snapshots of its recurrent state there.""",
            columns=("architecture", *architectures.WAYS),
            rows=[_architecture(family) for family in architectures.ARCHITECTURES],
        ),
        Table(
            title="Published models",
            text="""\
The published configuration is read as it stands; the parameters counted from it equal those of
transformers' network of it. Weights "random" says that those of the model itself were not run. The
error is the largest over all the ways above of a random network with the same configuration but
for sizes (2 layers, 4 with linear attention; narrower; FP8 ones in FP8 with 16 experts). Only the
models with "real" were run themselves, see the last table. Where the configuration
is marked *, the file itself was not read: the shapes are those of the model's GGUF files, or of the
general Qwen2.5 model of the same size, or of its BF16 release.""",
            columns=(
                "model",
                "architecture",
                "parameters",
                "active",
                "window",
                "weights run",
                "error, scaled down",
            ),
            rows=[_published(model) for model in published.published_models()],
        ),
        Table(
            title="GGUF types",
            text=f"{_FORMAT_TEXT}\nThe independent decoder is the `gguf` package's.",
            columns=_FORMAT_COLUMNS,
            rows=[_format(kind, formats.check_gguf) for kind in formats.GGUF_TYPES],
        ),
        Table(
            title="safetensors formats",
            text="""\
The independent decoder is that of the tests (`tests/quantized_checkpoint.py`), written from the
formats' descriptions. Each is read with one tensor for each expert, and where the format allows
that with all experts in one (`tests/engine/test_safetensors_formats.py`).""",
            columns=("format", "method", "stored as", *_FORMAT_COLUMNS[1:]),
            rows=[
                *(_format(kind, formats.check_plain, "-", kind) for kind in formats.PLAIN_TYPES),
                *(
                    _format(name, formats.check_quantized, formats.method_of(form), form.mix)
                    for name, form in formats.QUANTIZED.items()
                ),
            ],
        ),
        Table(
            title="Real files beside llama.cpp",
            text="""\
Answers and log-probabilities that llama.cpp gave for these very files are recorded in
`tests/golden`. Equal tokens are our first choices after the same text; the likelihood is the mean
negative log-likelihood of a token, in nats, from the third token of each text on: a text's first
token has a few huge activations, which llama.cpp's rounding of 256 values at once loses. Both
programs round activations to 8 bits, each in blocks of its own.""",
            columns=("file", "equal tokens", "scored tokens", "likelihood", "llama.cpp's"),
            rows=[_real_file(name) for name in real_files.file_names()],
        ),
    ]


_FORMAT_TEXT = """\
Of a dense network of two layers: bytes in memory of a weight of its matrices, scales included; the
largest difference between our values and an independent decoder's; the error of the logits beside
transformers on those values in float32, once with `--dtype float32` and once as the engine runs
otherwise, where keys and values are kept in 16 bits and kernels may round activations to 8 bits."""
_FORMAT_COLUMNS = ("format", "bytes", "values differ by", "error in float32", "error as it runs")


def render(table: Table, folder: Path, tell: Callable[[str], None]) -> str:
    """The table as Markdown. Runs its checks."""
    lines = [f"## {table.title}", "", table.text, ""]
    lines += [_line(table.columns), _line(["---", *("--:" for _ in table.columns[1:])])]
    for row in table.rows:
        tell(f"{table.title}: {row.name}")
        with tempfile.TemporaryDirectory(dir=folder) as place:
            lines.append(_line([row.name, *row.check(Path(place))]))
    return "\n".join(lines) + "\n"


def row_names(markdown: str) -> dict[str, list[str]]:
    """The first cells of each table of a page, by the heading above it."""
    names: dict[str, list[str]] = {}
    title = ""
    for line in markdown.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
            names[title] = []
        elif line.startswith("| "):
            names[title].append(line.split("|")[1].strip())
    return {title: rows[2:] for title, rows in names.items()}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _architecture(family: str) -> Row:
    def check(folder: Path) -> Sequence[str]:
        errors = architectures.check_architecture(family, folder)
        return [_share(errors[way]) for way in architectures.WAYS]

    return Row(name=family, check=check)


def _published(model: PublishedModel) -> Row:
    def check(folder: Path) -> Sequence[str]:
        config = model.parsed()
        counted = published.reference_parameters(model)
        if not counted == config.num_parameters == model.parameters:
            raise RuntimeError(f"{model.title}: {config.num_parameters:,} of {counted:,} counted")
        return [
            config.architecture,
            f"{config.num_parameters:,}",
            f"{config.num_active_parameters:,}",
            f"{config.context_window:,}",
            "real" if model.has_real_weights else "random",
            _share(published.scaled_down_error(model, folder)),
        ]

    mark = "" if model.config_is_the_published_file else " *"
    return Row(name=f"{model.title}{mark}", check=check)


def _format(name: str, check_format: Callable[[str, Path], FormatCheck], *about: str) -> Row:
    def check(folder: Path) -> Sequence[str]:
        done = check_format(name, folder)
        return [
            *about,
            f"{done.bytes_per_weight:.3f}",
            _share(done.weight_difference),
            _share(done.exact_error),
            _share(done.default_error),
        ]

    return Row(name=name, check=check)


def _real_file(name: str) -> Row:
    def check(_: Path) -> Sequence[str]:
        place = real_files.folder()
        if place is None or not (place / name).exists():
            raise FileNotFoundError(f"set QCODE_TEST_MODELS to the folder that has {name}")
        done = real_files.check_real_file(place / name)
        return [
            f"{done.equal_tokens} of {done.answer_tokens}",
            f"{done.scored_tokens:,}",
            f"{done.mean_nll:.4f}",
            f"{done.llama_cpp_mean_nll:.4f}",
        ]

    return Row(name=name, check=check)


def _share(value: float) -> str:
    """1.2e-6, without the zero that Python puts into exponents; 0 is equality to the bit."""
    return f"{value:.1e}".replace("e-0", "e-") if value else "0"
