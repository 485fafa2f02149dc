"""`qcode model run` and `score` as a person calls them, on a tiny random model."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import Qcode
from ptyprocess import PtyProcess
from random_checkpoint import write_safetensors
from transformers import AutoModelForCausalLM

from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.models.loading import load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_safetensors(tmp_path_factory.mktemp("tiny"), "qwen3"))


def test_an_answer_goes_to_stdout_and_the_rest_to_stderr(qcode: Qcode, model: str) -> None:
    asked = ("model", "run", model, "--max-tokens", "8", "--temperature", "0")
    quiet = qcode.run(*asked, "hello")
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stdout.endswith("\n")
    assert "written in" not in quiet.stderr
    told = qcode.run(*asked, "-", "--verbose", stdin="hello")
    assert told.stdout == quiet.stdout
    assert "8 written in" in told.stderr
    other = qcode.run(*asked, "hello", "--system", "Answer in French.", "--verbose")
    assert other.stdout != quiet.stdout


def test_a_prompt_is_continued_as_it_stands(qcode: Qcode, model: str) -> None:
    done = qcode.run(
        *("model", "run", model, "def main(", "--raw", "--max-tokens", "6", "--temperature", "0"),
        *("--dtype", "float32"),
    )
    assert done.returncode == 0, done.stderr
    tokenizer = load_tokenizer(open_checkpoint(Path(model)))
    ids = tokenizer.encode("def main(")
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        for _ in range(6):
            logits = network(torch.tensor([ids])).logits[0, -1, : tokenizer.num_tokens]
            ids.append(int(logits.argmax()))
    assert done.stdout == tokenizer.decode(ids[-6:])


def test_the_same_seed_gives_the_same_answer(qcode: Qcode, model: str) -> None:
    asked = ("model", "run", model, "hello", "--max-tokens", "8", "--temperature", "1")
    first, again, other = (qcode.run(*asked, "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other


def test_yarn_is_told_of_and_a_context_too_large_refused(qcode: Qcode, model: str) -> None:
    scaled = qcode.run("model", "run", model, "hi", "--max-tokens", "1", "--context", "1K")
    assert scaled.returncode == 0, scaled.stderr
    assert "YaRN factor 2 is on" in scaled.stderr
    refused = qcode.run("model", "run", model, "hi", "--context", "1M")
    assert refused.returncode == 1
    assert "more than this model can hold" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--prefix", "adding.py", "hello"], 2, "the whole prompt"),
        (["--prefix", "adding.py", "--raw"], 2, "the whole prompt"),
        (["--prefix", "-", "--suffix", "-"], 42, "cannot be both"),
        (["--suffix", "nowhere.py"], 42, "nowhere.py: cannot be read"),
        (["--raw", "--system", "x", "hello"], 2, "no place for --system"),
        (["--context", "many", "hello"], 2, "not a number of tokens"),
        ([], 42, "The prompt is empty"),
    ],
)
def test_what_run_does_not_take(
    qcode: Qcode, model: str, arguments: list[str], code: int, says: str
) -> None:
    done = qcode.run("model", "run", model, *arguments)
    assert done.returncode == code
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_an_answer_at_once(qcode: Qcode, model: str) -> None:
    arguments = ("model", "run", model, "hello", "--max-tokens", "100000", "--temperature", "1")
    process = qcode.start(*arguments, "--context", "2K")
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr


def test_an_interrupt_while_the_model_loads(qcode: Qcode, model: str) -> None:
    process = PtyProcess.spawn(
        [sys.executable, "-m", "qcode", "model", "run", model, "hello", "--max-tokens", "100000"],
        cwd=str(qcode.project),
        env={**qcode.environment, "TERM": "xterm"},
    )
    shown = ""
    while "loading the model" not in shown:
        shown += process.read(4096).decode()
    os.kill(process.pid, signal.SIGINT)
    while True:
        try:
            shown += process.read(4096).decode()
        except EOFError:
            break
    assert process.wait() == 130
    assert shown.endswith("interrupted\r\n")


def test_nobody_reading_any_more_is_no_error(qcode: Qcode, model: str) -> None:
    arguments = ("model", "run", model, "hello", "--max-tokens", "400", "--temperature", "1")
    process = qcode.start(*arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Error" not in process.stderr.read()
    assert process.wait(timeout=20) == 141


def test_a_score_is_the_mean_that_transformers_computes(qcode: Qcode, model: str) -> None:
    text = 'def main() -> None:\n    print("the item", 1)\n' * 3
    done = qcode.run(
        "model", "score", model, "--file", "-", "--json", "--dtype", "float32", stdin=text
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    tokenizer = load_tokenizer(open_checkpoint(Path(model)))
    ids = torch.tensor([tokenizer.encode(text)])
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        expected = float(network(ids, labels=ids).loss)
    assert record["tokens"] == ids.shape[1]
    assert record["mean_nll"] == pytest.approx(expected, rel=1e-3)
    assert record["perplexity"] == pytest.approx(math.exp(record["mean_nll"]))
    assert (record["model"], record["path"]) == (model, model)


def test_a_text_longer_than_the_context_is_scored_in_windows(qcode: Qcode, model: str) -> None:
    (qcode.project / "long.txt").write_text("the item at index 1 is None\n" * 40)
    asked = ("model", "score", model, "--file", "long.txt", "--json")
    whole = json.loads(qcode.run(*asked).stdout)
    parts = json.loads(qcode.run(*asked, "--context", "128").stdout)
    assert parts["tokens"] == whole["tokens"] > 300
    assert parts["context_window"] == 128
    assert parts["mean_nll"] == pytest.approx(whole["mean_nll"], rel=0.05)
    assert parts["mean_nll"] != whole["mean_nll"]


def test_a_text_without_a_second_token_has_no_score(qcode: Qcode, model: str) -> None:
    done = qcode.run("model", "score", model, "--file", "-", stdin="a")
    assert done.returncode == 42
    assert "at least 2 are needed" in done.stderr


@pytest.mark.weights("0.5b")
@pytest.mark.xdist_group("engine")
def test_a_real_model_fills_in_the_middle(qcode: Qcode) -> None:
    real = str(Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf")
    (qcode.project / "before.py").write_text("def add(a, b):\n    return ")
    after = "\n\nprint(add(1, 2))\n"
    done = qcode.run(
        *("model", "run", real, "--prefix", "before.py", "--suffix", "-", "--temperature", "0"),
        stdin=after,
        timeout_s=100,
    )
    assert (done.returncode, done.stdout.rstrip()) == (0, "a + b")
