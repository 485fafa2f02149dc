"""Every line of several runs, held against the shapes that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import EDIT, READ, Qcode, Step, call
from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parent / "stream_json.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

WORK: list[Step] = [
    {"reasoning": "Let me see.", "text": "I look.", "calls": [READ, call("no_such_tool")]},
    {"calls": [EDIT, call("run_shell_command", command="touch made")], "usage": {}},
    {"text": "Fixed.", "usage": {"input_tokens": 90, "output_tokens": 9, "cached_tokens": 70}},
]
LONG = "".join(f"Line {number} of a long file, with words in it.\n" for number in range(900))
MESSAGES = (
    '{"type": "user", "message": {"role": "user", "content": "work"}}\n'
    "nonsense\n"
    '{"type": "control_request", "request_id": "1", "request": {"subtype": "initialize"}}\n'
    '{"type": "control_request", "request_id": "2", "request": {"subtype": "dance"}}\n'
)


def checked(stdout: str) -> list[dict[str, Any]]:
    """The objects of the lines, each of which is of exactly one known shape. Lines end at a
    newline and at nothing else."""
    assert stdout.endswith("\n")
    written = [json.loads(line) for line in stdout[:-1].split("\n")]
    for value in written:
        VALIDATOR.validate(value)
    # The conversation names itself once it exists.
    assert len({value["session_id"] for value in written if "session_id" in value}) == 1
    assert written[0]["type"] == "system"
    assert written[0]["subtype"] == "init"
    assert written[-1]["type"] == "result"
    ids = [value["uuid"] for value in written if "uuid" in value]
    assert len(ids) == len(set(ids))
    return written


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("allowed", [(), ("--yolo",)])
def test_a_run_with_calls(qcode: Qcode, partial: bool, allowed: tuple[str, ...]) -> None:
    flags = ("--include-partial-messages",) if partial else ()
    done = qcode.run(
        "run",
        "work",
        f"--model={qcode.script(*WORK)}",
        "--output-format=stream-json",
        *flags,
        *allowed,
    )
    assert done.returncode == 0
    written = checked(done.stdout)
    results = {
        block["tool_use_id"]
        for value in written
        if value["type"] == "user"
        for block in value["message"]["content"]
        if block["type"] == "tool_result"
    }
    called = {
        block["id"]
        for value in written
        if value["type"] == "assistant"
        for block in value["message"]["content"]
        if block["type"] == "tool_use"
    }
    assert called == results
    assert len(written[-1]["permission_denials"]) == (0 if allowed else 2)
    assert any(value["type"] == "stream_event" for value in written) == partial


@pytest.mark.parametrize(
    ("steps", "flags"),
    [
        ([{"error": "unavailable", "text": "Half an"}], ["--include-partial-messages"]),
        ([{"error": "authentication"}], []),
        ([{"calls": [READ]}, {"calls": [READ]}], ["--max-turns=1"]),
        ([{"calls": [READ, READ]}], ["--max-tool-calls=1"]),
        ([{"text": "I am done."}] * 5, ["--verify=false"]),
        ([{"text": "No."}] * 2, ["--json-schema={}"]),
        ([{"text": "[1]"}] * 2, ["--json-schema={}"]),
        ([{"text": "Yes."}], ["--model=no-such-model"]),
        ([{"text": "Yes."}], ["--resume=nothing"]),
    ],
)
def test_runs_that_end_otherwise(qcode: Qcode, steps: list[Step], flags: list[str]) -> None:
    done = qcode.run(
        "run", "work", f"--model={qcode.script(*steps)}", "--output-format=stream-json", *flags
    )
    written = checked(done.stdout)
    assert written[-1]["is_error"] == (done.returncode != 0)
    assert [value["type"] for value in written].count("result") == 1


def test_a_conversation_of_a_program(qcode: Qcode) -> None:
    done = qcode.run(
        "run",
        f"--model={qcode.script(*WORK)}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=MESSAGES,
    )
    written = checked(done.stdout)
    kinds = {(value["type"], value.get("subtype")) for value in written}
    assert {("control_response", None), ("system", "error"), ("result", "success")} <= kinds


def test_a_run_that_shortens_its_conversation(qcode: Qcode) -> None:
    (qcode.project / "long.txt").write_text(LONG)
    reads: list[Step] = [
        {
            "calls": [call("read_file", file_path="long.txt", offset=1 + 300 * part, limit=300)],
            "usage": {"input_tokens": 3000 * (part + 1), "output_tokens": 50},
        }
        for part in range(3)
    ]
    script = qcode.script(*reads, *[{"text": "Read."}] * 3, context_window=8000)
    done = qcode.run("run", "read", f"--model={script}", "--output-format=stream-json")
    kinds = [(value["type"], value.get("subtype")) for value in checked(done.stdout)]
    assert ("system", "compact_boundary") in kinds, done.stderr
