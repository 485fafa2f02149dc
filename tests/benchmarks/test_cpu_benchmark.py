"""The comparison with llama.cpp: what is asked of both, and what the table says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoint import write_gguf

from benchmarks.cpu.agent_session import NUM_TURNS, PREFIX_TOKENS, TURN_TOKENS, agent_session
from benchmarks.cpu.measurements import Row, lengths_of
from benchmarks.cpu.report import ratio, table
from benchmarks.random_gguf import write_random_gguf
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.conversion.formats import FORMATS
from qcode.engine.measurement import ANSWER_TOKENS, SHORT_PROMPT
from qcode.engine.models.loading import load_tokenizer

ROOT = Path(__file__).parents[2]
GEOMETRY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 16_384,
    "vocab_size": 1000,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly any network."""
    folder = tmp_path_factory.mktemp("tiny")
    write_gguf(folder / "vocabulary.gguf")
    write_random_gguf(
        folder / "tiny.gguf",
        geometry=GEOMETRY,
        vocabulary=folder / "vocabulary.gguf",
        output=FORMATS["q8_0"],
    )
    return folder / "tiny.gguf"


def test_a_session_has_the_lengths_it_is_said_to_have(model: Path) -> None:
    tokenizer = load_tokenizer(open_checkpoint(model))
    session = agent_session(tokenizer)
    assert len(session.prefix) == PREFIX_TOKENS
    assert [len(turn) for turn in session.turns] == [TURN_TOKENS] * NUM_TURNS
    assert len(set(session.turns)) == NUM_TURNS
    assert session == agent_session(tokenizer)


def test_the_sections_ask_for_each_prompt_once() -> None:
    assert lengths_of(["load", "session"]) == {}
    assert lengths_of(["prefill"]) == {512: 1, 2048: 1}
    decode = {SHORT_PROMPT: ANSWER_TOKENS, 2048: ANSWER_TOKENS}
    assert lengths_of(["decode"]) == decode
    assert lengths_of(["prefill", "decode"]) == {**decode, 512: 1}


def test_above_one_is_faster_and_below_one_takes_less_memory() -> None:
    def row(title: str, ours: float, theirs: float) -> Row:
        samples = {"qcode": [ours], "llama.cpp": [theirs]}
        return Row(title=title, more_is_better=title.endswith("tokens/s"), samples=samples)

    names = ("qcode", "llama.cpp")
    assert ratio(row("decode, tokens/s", 30, 20), names) == 1.5
    assert ratio(row("load, s", 1, 4), names) == 4
    assert ratio(row("peak memory, MiB", 700, 1000), names) == 0.7


def test_the_table_shows_median_spread_and_best() -> None:
    samples = {"qcode": [1.0, 2.0, 3.0, 4.0, 12.0]}
    speed = Row(title="decode, tokens/s", more_is_better=True, samples=samples)
    load = Row(title="load, s", more_is_better=False, samples=samples)
    lines = table([speed, load], ["qcode"]).splitlines()
    assert lines[2] == "| decode, tokens/s | 3.00 (1.40–8.80, best 12.0) |"
    assert lines[3] == "| load, s | 3.00 (1.40–8.80, best 1.00) |"


def test_a_row_that_was_interrupted_has_no_ratio() -> None:
    row = Row(title="load, s", more_is_better=False, samples={"qcode": [2.0]})
    assert table([row], ["qcode", "llama.cpp"]).splitlines()[2] == "| load, s | 2.00 |  |  |"


def test_our_side_alone_from_end_to_end(model: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.cpu", str(model), "--engine", "qcode"]
    command += ["--rounds", "1", "--threads", "1", "--only", "load,prefill,decode,session"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    titles = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"]
    assert titles[2:] == [
        "load, s",
        "process start to first token, s",
        "decode after 16 tokens, tokens/s",
        "prefill of 512 tokens, tokens/s",
        "prefill of 2048 tokens, tokens/s",
        "decode after 2048 tokens, tokens/s",
        "peak memory, MiB",
        "allocated memory, MiB",
        "agent session, cold, s",
        "its first token, cold, s",
        "peak memory in the session, MiB",
        "allocated memory in the session, MiB",
        "agent session, started again, s",
        "its first token, started again, s",
    ]


def test_a_section_that_there_is_not(model: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.cpu", str(model), "--only", "decode,speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "speed: not of load, prefill, decode, long, session" in done.stderr
