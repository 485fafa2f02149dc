"""What one `qcode run` has read, the next one in the same project does not read again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import Qcode
from random_checkpoint import write_safetensors

ANSWER = {"QCODE_MAX_ANSWER_TOKENS": "6", "QCODE_MAX_TURNS": "1", "QCODE_SEED": "1"}
INSTRUCTIONS = "Keep lines short. Write tests first. Say what you changed, and why.\n" * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny")
    return str(write_safetensors(path, "qwen3", max_position_embeddings=32768))


@pytest.fixture(autouse=True)
def project(qcode: Qcode) -> None:
    (qcode.project / "AGENTS.md").write_text(INSTRUCTIONS)
    qcode.environment.update(ANSWER)


def ask(qcode: Qcode, model: str, prompt: str, *flags: str) -> tuple[int, int, str]:
    """How many tokens the prompt had, how many of them were not computed, and the answer."""
    done = qcode.run("run", prompt, "--model", model, "--output-format", "json", *flags)
    result = json.loads(done.stdout)[-1]
    usage = result["usage"]
    cached = usage["cache_read_input_tokens"]
    return usage["input_tokens"] + cached, cached, result["result"]


def segments(qcode: Qcode) -> list[Path]:
    return sorted(qcode.home.rglob("*.kv"))


def kept_bytes(qcode: Qcode) -> int:
    return sum(path.stat().st_size for path in segments(qcode))


def check_second_run(qcode: Qcode, model: str) -> None:
    first_tokens, first_cached, _ = ask(qcode, model, "Name the files.")
    second_tokens, second_cached, answer = ask(qcode, model, "Which tests are there?")

    assert first_cached == 0
    assert first_tokens > 600
    # All but the tasks themselves, and less than a block.
    assert second_cached > second_tokens - 60
    assert second_cached % 16 == 0
    qcode.run("model", "cache", "clear")
    fresh_tokens, fresh_cached, fresh_answer = ask(qcode, model, "Which tests are there?")
    assert (fresh_tokens, fresh_cached) == (second_tokens, 0)
    assert fresh_answer == answer


def test_a_second_run_does_not_read_the_shared_beginning_again(qcode: Qcode, model: str) -> None:
    check_second_run(qcode, model)


@pytest.mark.weights("0.5b")
@pytest.mark.xdist_group("engine")
@pytest.mark.timeout(400)
def test_a_real_model_does_not_read_it_again_either(qcode: Qcode) -> None:
    check_second_run(qcode, str(Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"))


def test_a_conversation_goes_on_from_disk(qcode: Qcode, model: str) -> None:
    first_tokens, _, _ = ask(qcode, model, "Name the files.")
    again_tokens, cached, _ = ask(qcode, model, "And now?", "--continue")

    assert again_tokens > first_tokens
    assert cached > first_tokens - 32


def test_an_ephemeral_run_uses_what_is_there_and_leaves_nothing(qcode: Qcode, model: str) -> None:
    ask(qcode, model, "Name the files.", "--ephemeral")
    assert segments(qcode) == []

    ask(qcode, model, "Name the files.")
    before = segments(qcode)
    _, cached, _ = ask(qcode, model, f"Something else: {'word ' * 400}", "--ephemeral")

    assert cached > 600
    assert segments(qcode) == before


def test_it_can_be_switched_off(qcode: Qcode, model: str) -> None:
    qcode.environment["QCODE_PREFIX_CACHE"] = "off"
    ask(qcode, model, "Name the files.")

    assert segments(qcode) == []
    assert "off" in qcode.run("model", "cache").stdout


def test_a_size_that_is_none_is_refused(qcode: Qcode, model: str) -> None:
    qcode.environment["QCODE_PREFIX_CACHE"] = "plenty"
    done = qcode.run("run", "hello", "--model", model)

    assert done.returncode == 52
    assert "QCODE_PREFIX_CACHE" in done.stderr


def test_a_limit_holds(qcode: Qcode, model: str) -> None:
    qcode.environment["QCODE_PREFIX_CACHE"] = "5MB"
    for number in range(2):
        ask(qcode, model, f"{number} {'other words ' * 300}")
        assert 0 < kept_bytes(qcode) <= 5_000_000


def test_damage_is_said_and_mended(qcode: Qcode, model: str) -> None:
    answer = qcode.run("run", "Name the files.", "--model", model).stdout
    for segment in segments(qcode):
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 1
        segment.write_bytes(content)

    done = qcode.run("run", "Name the files.", "--model", model)
    assert done.returncode == 0
    assert done.stderr.count("damaged") == 1
    assert done.stdout == answer

    done = qcode.run("run", "Name the files.", "--model", model)
    assert "damaged" not in done.stderr
    assert "(0 from cache)" not in done.stderr
    assert done.stdout == answer


def test_two_runs_at_once(qcode: Qcode, model: str) -> None:
    arguments = ("--model", model, "--output-format", "json")
    runs = [qcode.start("run", f"Task {number}", *arguments) for number in range(2)]
    for process in runs:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert json.loads(output)[-1]["subtype"] == "success"

    assert ask(qcode, model, "Task 0")[1] > 600


def test_a_killed_run_leaves_nothing_wrong(qcode: Qcode, model: str) -> None:
    _, _, answer = ask(qcode, model, "Name the files.", "--ephemeral")
    assert not list(qcode.home.rglob("prefixes"))
    process = qcode.start("run", "Name the files.", "--model", model)
    while process.poll() is None and not list(qcode.home.rglob("prefixes/*/*")):
        pass  # until it begins to write
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert ask(qcode, model, "Name the files.")[2] == answer


def test_the_cache_is_shown_and_cleared(qcode: Qcode, model: str) -> None:
    ask(qcode, model, "Name the files.")
    shown = qcode.run("model", "cache")
    assert Path(model).name in shown.stdout.replace("\n", "")
    assert "of 10GB" in shown.stdout

    unknown = qcode.run("model", "cache", "clear", "--model", "other")
    assert unknown.returncode != 0
    assert "other" in unknown.stderr
    record = json.loads(qcode.run("model", "cache", "--json").stdout)
    assert record["bytes"] == kept_bytes(qcode) > 0

    cleared = qcode.run("model", "cache", "clear", "--model", model)
    assert cleared.returncode == 0, cleared.stderr
    assert kept_bytes(qcode) == 0
