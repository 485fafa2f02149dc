"""`qcode model bench` as a person and a program call it, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Qcode
from random_checkpoint import write_gguf

FIGURES = ("prefill_512", "prefill_2048", "decode", "decode_2k", "load_s", "peak_rss_mib")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_gguf(path, max_position_embeddings=4096)
    return str(path)


def test_json_for_programs(qcode: Qcode, model: str) -> None:
    done = qcode.run("model", "bench", model, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["model"], record["threads"]) == (model, 2)
    assert all(record[key] > 0 for key in FIGURES)
    assert record["peak_rss_mib"] < 4096


def test_a_table_for_people_and_the_threads_asked_for(qcode: Qcode, model: str) -> None:
    done = qcode.run("model", "bench", model, "--threads", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(FIGURES)
    assert [line.split(",")[0] for line in lines][:2] == [
        "prefill of 512 tokens",
        "prefill of 2048 tokens",
    ]
    refused = qcode.run("model", "bench", model, "--threads", "0")
    assert refused.returncode == 2


def test_a_model_that_is_not_there(qcode: Qcode, tmp_path: Path) -> None:
    done = qcode.run("model", "bench", str(tmp_path / "none.gguf"))
    assert done.returncode not in (0, 2)
    assert "none.gguf" in done.stderr
