"""docs/reference/models.md cannot rot: its rows are those of the command, and the quick ones are
checked again here. The rest is held by tests/engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_checkpoint import FAMILIES

from benchmarks.models.architectures import WAYS, check_architecture
from benchmarks.models.formats import check_gguf, check_plain
from benchmarks.models.page import INTRODUCTION, Row, Table, render, row_names, tables
from benchmarks.models.published import (
    PublishedModel,
    published_models,
    reference_parameters,
    scaled_down_error,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "models.md"
MODELS = published_models()
SMALL = [model for model in MODELS if model.title in ("Qwen3-0.6B", "Qwen3-30B-A3B")]


def test_the_page_has_the_rows_of_the_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = {table.title: [row.name for row in table.rows] for table in tables()}
    assert row_names(page) == listed, "python -m benchmarks.models --write docs/reference/models.md"
    assert page.startswith(INTRODUCTION)
    for table in tables():
        assert f"## {table.title}\n\n{table.text}\n\n| {' | '.join(table.columns)} |\n" in page


def test_rows_are_read_back_as_they_are_written(tmp_path: Path) -> None:
    table = Table(
        title="Two",
        text="Of them.",
        columns=("name", "value"),
        rows=[Row(name=name, check=lambda folder: [folder.parent.name]) for name in ("a", "b c")],
    )
    page = render(table, tmp_path, tell=lambda _: None)
    assert f"| b c | {tmp_path.name} |\n" in page
    assert row_names(page) == {"Two": ["a", "b c"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_of_computing_is_exact(family: str, tmp_path: Path) -> None:
    errors = check_architecture(family, tmp_path)
    assert tuple(errors) == WAYS
    assert max(errors.values()) < 1e-4


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_published_parameters_are_those_of_transformers(model: PublishedModel) -> None:
    assert model.parsed().num_parameters == model.parameters == reference_parameters(model)


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.title)
def test_a_published_config_scaled_down_is_exact(model: PublishedModel, tmp_path: Path) -> None:
    assert scaled_down_error(model, tmp_path) < 1e-4


def test_formats_are_decoded_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for check in (check_gguf("Q4_K", tmp_path), check_plain("BF16", tmp_path / "plain")):
        assert check.weight_difference == 0
        assert check.exact_error < 1e-4
        assert check.exact_error < check.default_error < 0.05
    assert check_gguf("Q4_K", tmp_path).bytes_per_weight == 144 / 256
