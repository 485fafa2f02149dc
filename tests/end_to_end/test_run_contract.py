"""What CI relies on: what comes in, what goes out, budgets, forms of answers, and their codes."""

from __future__ import annotations

import json
import os
import pty
from typing import Any

import pytest
from chat_server import ChatServer, refuse, say
from conftest import BROKEN, EDIT, MENDED, READ, Qcode, call

from qcode.protocol.messages import Usage

SCHEMA = {
    "type": "object",
    "properties": {"version": {"type": "integer"}},
    "required": ["version"],
    "additionalProperties": False,
}
USED = {"input_tokens": 900, "output_tokens": 100}


def objects(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def user(text: object) -> str:
    return json.dumps({"type": "user", "message": {"role": "user", "content": text}}) + "\n"


def control(subtype: str, **fields: object) -> str:
    request = {"subtype": subtype, **fields}
    return json.dumps({"type": "control_request", "request_id": "r1", "request": request}) + "\n"


# What comes in.


def test_data_too_long_for_the_prompt_is_there_for_the_model_to_search(qcode: Qcode) -> None:
    log = "".join(f"line {number}: fine\n" for number in range(20_000)) + "line 20000: BOOM\n"
    log = log.replace("line 9000: fine", "line 9000: the cause")
    with ChatServer([say(calls=[("grep_search", {"pattern": "cause"})]), say("Line 9000.")]) as it:
        done = qcode.run(
            "run", "why?", f"--base-url={it.url}", "--model=m", stdin=log, timeout_s=90
        )
        chats = [request for request in it.requests if "messages" in request.body]
    assert done.returncode == 0, done.stderr
    prompt = chats[0].body["messages"][1]["content"]
    assert len(prompt) < 40_000
    assert prompt.startswith("why?")
    assert "BOOM" in prompt
    [kept] = (qcode.home / ".cache" / "qcode" / "output").iterdir()
    assert str(kept) in prompt
    assert "the cause" in kept.read_text()


def test_a_dash_after_the_task_waits_for_data(qcode: Qcode) -> None:
    script = qcode.script({"expect": "late line", "text": "Read."})
    done = qcode.run("run", "why?", "-", f"--model={script}", stdin="late line\n")
    assert done.stdout == "Read.\n", done.stderr


def test_the_dash_reads_the_task_and_a_task_is_never_cut(qcode: Qcode) -> None:
    task = "x" * 100_000 + " the end"
    script = qcode.script({"expect": "the end", "text": "Read."})
    assert qcode.run("run", "-", f"--model={script}", stdin=task).stdout == "Read.\n"


def test_many_messages_are_one_turn_each(qcode: Qcode) -> None:
    script = qcode.script({"text": "First."}, {"expect": "and then?", "text": "Second."})
    done = qcode.run(
        "run",
        f"--model={script}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=user("begin") + "\n" + user([{"type": "text", "text": "and then?"}]),
    )
    assert done.returncode == 0, done.stderr
    written = objects(done.stdout)
    kinds = [value["type"] for value in written]
    assert kinds == ["system", "assistant", "result", "assistant", "result"]
    results = [value for value in written if value["type"] == "result"]
    assert [value["result"] for value in results] == ["First.", "Second."]
    assert len({value["session_id"] for value in written}) == 1


@pytest.mark.parametrize(
    "line",
    [
        "no JSON\n",
        "[1, 2]\n",
        '{"type": "user"}\n',
        '{"type": "user", "message": {"role": "user", "content": 7}}\n',
        '{"type": "user", "message": {"role": "user", "content": [{"type": "image"}]}}\n',
        '{"type": "user", "message": {"role": "user", "content": "  "}}\n',
        '{"type": "dance"}\n',
        "[" * 100_000 + "\n",
    ],
)
def test_a_bad_line_gives_one_error_and_the_rest_is_done(qcode: Qcode, line: str) -> None:
    script = qcode.script({"text": "First."}, {"text": "Second."})
    done = qcode.run(
        "run",
        f"--model={script}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=user("one") + line + user("two"),
    )
    written = objects(done.stdout)
    errors = [value for value in written if value.get("subtype") == "error"]
    assert len(errors) == 1
    assert "line 2: " in errors[0]["error"]["message"]
    results = [value["result"] for value in written if value["type"] == "result"]
    assert results == ["First.", "Second."]
    assert done.returncode == 42  # not all that was asked was done


def test_a_conversation_without_a_message_is_bad_input(qcode: Qcode) -> None:
    arguments = ("run", "--input-format=stream-json", "--output-format=stream-json")
    done = qcode.run(*arguments, f"--model={qcode.script({'text': 'x'})}", stdin="")
    assert done.returncode == 42
    assert [value["type"] for value in objects(done.stdout)] == ["system", "result"]


def test_the_code_tells_of_the_first_turn_that_failed(qcode: Qcode) -> None:
    script = qcode.script({"text": "Well."}, {"error": "authentication"}, {"text": "Well again."})
    done = qcode.run(
        "run",
        f"--model={script}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=user("one") + user("two") + user("three"),
    )
    results = [value["is_error"] for value in objects(done.stdout) if value["type"] == "result"]
    assert results == [False, True, False]
    assert done.returncode == 41


def test_control_requests_are_answered(qcode: Qcode) -> None:
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT]}, {"text": "Done."})
    done = qcode.run(
        "run",
        f"--model={script}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        stdin=control("initialize")
        + control("set_permission_mode", mode="yolo")
        + control("set_permission_mode", mode="acceptEdits")
        + control("teleport")
        + user("mend it"),
    )
    answers = [value for value in objects(done.stdout) if value["type"] == "control_response"]
    assert [value["response"]["subtype"] for value in answers] == [
        "success",
        "error",
        "success",
        "error",
    ]
    assert {value["response"]["request_id"] for value in answers} == {"r1"}
    assert (qcode.project / "adding.py").read_text() == MENDED


def test_the_host_interrupts_one_turn_and_goes_on(qcode: Qcode) -> None:
    slow = {"text": "A very slow answer. " * 200, "delay_s": 0.05}
    process = qcode.start(
        "run",
        f"--model={qcode.script(slow, {'text': 'Quick.'})}",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--include-partial-messages",
        stdin=-1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(user("slowly"))
    process.stdin.flush()
    while "text_delta" not in process.stdout.readline():
        pass
    process.stdin.write(control("interrupt") + user("quickly"))
    process.stdin.close()
    process.stdin = None  # for the fixture, which would close it once more
    rest = objects(process.stdout.read())
    results = [value for value in rest if value["type"] == "result"]
    assert [value["is_error"] for value in results] == [True, False]
    assert results[-1]["result"] == "Quick."
    assert process.wait(timeout=20) == 0  # the host wanted it so


@pytest.mark.parametrize(
    "arguments",
    [
        ("do", "--input-format=stream-json", "--output-format=stream-json"),
        ("--input-format=stream-json",),
        ("--input-format=stream-json", "--output-format=json"),
    ],
)
def test_input_that_does_not_go_with_the_rest(qcode: Qcode, arguments: tuple[str, ...]) -> None:
    done = qcode.run("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")


# Tools, prompts, settings.


def test_only_the_chosen_tools_are_offered_and_run(qcode: Qcode) -> None:
    with ChatServer([say(calls=[("edit", {})]), say("I cannot.")]) as server:
        qcode.run("run", "do", f"--base-url={server.url}", "--model=m", "--tools=Read", "--yolo")
        chats = [request for request in server.requests if "messages" in request.body]
    offered = [tool["function"]["name"] for tool in chats[0].body["tools"]]
    assert offered == ["read_file", "list_directory", "glob", "grep_search"]
    assert "no tool named 'edit'" in chats[1].body["messages"][-1]["content"]


def test_without_tools_none_are_sent(qcode: Qcode) -> None:
    with ChatServer([say("Yes.")]) as server:
        qcode.run("run", "do", f"--base-url={server.url}", "--model=m", "--tools=")
        [chat] = [request for request in server.requests if "messages" in request.body]
    assert "tools" not in chat.body


def system_prompt(qcode: Qcode, *arguments: str) -> str:
    with ChatServer([say("Yes.")]) as server:
        done = qcode.run("run", "do", f"--base-url={server.url}", "--model=m", *arguments)
        [chat] = [request for request in server.requests if "messages" in request.body]
    assert done.returncode == 0, done.stderr
    return str(chat.body["messages"][0]["content"])


def test_the_system_prompt_is_replaced_and_added_to(qcode: Qcode) -> None:
    (qcode.project / "AGENTS.md").write_text("Say it in Latin.")
    usual = system_prompt(qcode)
    own = system_prompt(qcode, "--system-prompt=You are a parrot.")
    added = system_prompt(qcode, "--append-system-prompt=Be brief.")
    assert own.startswith("You are a parrot.\n")
    assert usual[:100] not in own
    assert "Say it in Latin." in own
    assert added == usual.rstrip("\n") + "\n\nBe brief.\n"


def test_bare_reads_neither_settings_nor_instructions(qcode: Qcode) -> None:
    (qcode.project / "AGENTS.md").write_text("Say it in Latin.")
    user_file = qcode.home / ".config" / "qcode" / "config.toml"
    user_file.parent.mkdir(parents=True)
    user_file.write_text("this is no TOML")
    (qcode.project / ".qcode").mkdir()
    (qcode.project / ".qcode" / "config.toml").write_text("nor is this")
    assert "Latin" not in system_prompt(qcode, "--bare", "--trust")
    assert qcode.run("run", "do", "--model=m").returncode == 52


# Budgets.


@pytest.mark.parametrize(
    ("flags", "code", "kind"),
    [
        (["--max-tokens=1000"], 55, "error_during_execution"),
        (["--max-tokens=1001"], 0, "success"),
        (["--max-cost=0.0019"], 55, "error_max_budget_usd"),
        (["--max-cost=0.0029"], 0, "success"),
    ],
)
def test_budgets_of_tokens_and_money(qcode: Qcode, flags: list[str], code: int, kind: str) -> None:
    script = qcode.script({"calls": [READ], "usage": USED}, {"text": "Done.", "usage": {}})
    done = qcode.run(
        "run",
        "do",
        f"--model={script}",
        "--output-format=stream-json",
        *flags,
        environment={"QCODE_COST_INPUT": "1", "QCODE_COST_OUTPUT": "10"},
    )
    result = objects(done.stdout)[-1]
    assert (done.returncode, result["subtype"]) == (code, kind)
    assert result["total_cost_usd"] == pytest.approx(0.0019)


def test_a_budget_of_money_needs_prices(qcode: Qcode) -> None:
    done = qcode.run("run", "do", f"--model={qcode.script({'text': 'x'})}", "--max-cost=1")
    assert (done.returncode, done.stdout) == (52, "")
    assert "cost_input" in done.stderr
    assert "cost_output" in done.stderr


def test_the_prices_of_a_named_model(qcode: Qcode) -> None:
    file = qcode.home / ".config" / "qcode" / "config.toml"
    file.parent.mkdir(parents=True)
    answer = say("Yes.", usage=Usage(input_tokens=1000, output_tokens=100))
    with ChatServer([answer]) as server:
        file.write_text(
            f'[models.mine]\nbase_url = "{server.url}"\nmodel = "m"\n'
            "cost_input = 2\ncost_output = 20\n"
        )
        done = qcode.run("run", "do", "--model=mine", "--max-cost=1", "--output-format=stream-json")
    assert done.returncode == 0, done.stderr
    assert objects(done.stdout)[-1]["total_cost_usd"] == pytest.approx(0.004)


# Answers in a form.


@pytest.mark.parametrize("given", ["inline", "file", "@file"])
def test_an_answer_that_obeys_is_exactly_the_json(qcode: Qcode, given: str) -> None:
    (qcode.project / "schema.json").write_text(json.dumps(SCHEMA))
    value = {"inline": json.dumps(SCHEMA), "file": "schema.json", "@file": "@schema.json"}[given]
    script = qcode.script({"calls": [READ]}, {"text": 'So:\n```json\n{"version": 3}\n```'})
    done = qcode.run("run", "which?", f"--model={script}", f"--json-schema={value}", "-o", "out")
    assert (done.returncode, done.stdout) == (0, '{"version": 3}\n')
    assert json.loads((qcode.project / "out").read_text()) == {"version": 3}


def test_json_is_not_changed_by_the_filter_of_foreign_text(qcode: Qcode) -> None:
    value = {"name": "été 名前", "odd": "a\u202eb\u001b[31m"}
    script = qcode.script({"text": json.dumps(value)})
    done = qcode.run("run", "which?", f"--model={script}", '--json-schema={"type": "object"}')
    assert json.loads(done.stdout) == value
    assert "\u202e" not in done.stdout
    assert "\x1b" not in done.stdout


def test_an_answer_that_does_not_obey_is_corrected_once(qcode: Qcode) -> None:
    script = qcode.script(
        {"text": '{"version": "three"}'},
        {"expect": "'three' is not of type 'integer'", "text": '{"version": 3}'},
    )
    arguments = ("run", "which?", f"--model={script}", f"--json-schema={json.dumps(SCHEMA)}")
    done = qcode.run(*arguments, "--output-format=stream-json")
    assert done.returncode == 0, done.stderr
    assert objects(done.stdout)[-1]["structured_output"] == {"version": 3}


def test_an_answer_that_never_obeys_is_a_failure_with_its_reason(qcode: Qcode) -> None:
    script = qcode.script(*[{"text": '{"version": "three"}'}] * 2, {"text": '{"version": 3}'})
    arguments = ("run", "which?", f"--model={script}", f"--json-schema={json.dumps(SCHEMA)}")
    done = qcode.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "$.version: 'three' is not of type 'integer'" in done.stderr
    result = objects(qcode.run(*arguments, "--output-format=stream-json").stdout)[-1]
    assert result["subtype"] == "error_max_structured_output_retries"


def test_the_server_is_asked_for_the_form_where_it_knows_how(qcode: Qcode) -> None:
    with ChatServer([say("Three."), say('{"version": 3}')]) as server:
        done = qcode.run(
            "run", "which?", f"--base-url={server.url}", "--model=m",
            f"--json-schema={json.dumps(SCHEMA)}",
        )  # fmt: skip
        first, second = [request for request in server.requests if "messages" in request.body]
    assert done.stdout == '{"version": 3}\n'
    assert json.dumps(SCHEMA) in first.body["messages"][0]["content"]
    assert "response_format" not in first.body
    assert second.body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "tools" not in second.body


def test_a_server_that_refuses_the_form_is_asked_in_words(qcode: Qcode) -> None:
    refused = refuse(400, "unknown field response_format")
    with ChatServer([refused, say('{"version": 3}')]) as server:
        done = qcode.run(
            "run", "which?", f"--base-url={server.url}", "--model=m", "--tools=",
            f"--json-schema={json.dumps(SCHEMA)}",
        )  # fmt: skip
        chats = [request for request in server.requests if "messages" in request.body]
    assert done.stdout == '{"version": 3}\n'
    assert ["response_format" in chat.body for chat in chats] == [True, False]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no-such-file.json", "cannot be read"),
        ("{not json}", "not JSON"),
        ('{"type": "strange"}', "no JSON Schema"),
        (".", "not a regular file"),
        ("list.json", "no JSON Schema"),
    ],
)
def test_what_is_no_schema_is_bad_input(qcode: Qcode, value: str, says: str) -> None:
    (qcode.project / "list.json").write_text("[]")
    script = qcode.script({"text": "{}"})
    done = qcode.run("run", "do", f"--model={script}", f"--json-schema={value}")
    assert (done.returncode, done.stdout) == (42, "")
    assert says in done.stderr


def test_a_schema_that_refers_elsewhere_fetches_nothing(qcode: Qcode) -> None:
    with ChatServer([]) as server:
        schema = json.dumps({"$ref": f"{server.url}/schema.json"})
        script = qcode.script({"text": "{}"})
        done = qcode.run("run", "do", f"--model={script}", f"--json-schema={schema}")
        assert server.requests == []
    assert done.returncode == 42
    assert "refers to what it does not hold" in done.stderr


# Never a person.


def test_an_answer_file_stays_as_it_was_where_there_is_no_answer(qcode: Qcode) -> None:
    kept = qcode.project / "answer.txt"
    kept.write_text("of yesterday")
    script = qcode.script({"error": "unavailable"})
    assert qcode.run("run", "do", f"--model={script}", "-o", "answer.txt").returncode == 75
    assert kept.read_text() == "of yesterday"


def test_a_terminal_that_shows_no_questions_is_not_asked(qcode: Qcode) -> None:
    """Standard input is a terminal, but stderr goes to a log: nobody could see the question."""
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT]}, {"text": "I could not."})
    person, terminal = pty.openpty()
    process = qcode.start("run", "do", f"--model={script}", stdin=terminal)
    assert process.wait(timeout=30) == 0
    os.close(person)
    os.close(terminal)
    assert (qcode.project / "adding.py").read_text() == BROKEN


def test_a_required_sandbox_that_is_not_there_ends_the_run(qcode: Qcode) -> None:
    script = qcode.script({"calls": [EDIT]}, {"text": "Done."})
    done = qcode.run("run", "do", f"--model={script}", "--sandbox=require", "--yolo")
    assert (done.returncode, done.stdout) == (44, "")
    assert "sandbox" in done.stderr
    assert (qcode.project / "adding.py").read_text() == BROKEN


def test_the_verify_command_needs_its_tool(qcode: Qcode) -> None:
    script = qcode.script({"text": "x"})
    done = qcode.run("run", "do", f"--model={script}", "--tools=Read", "--verify=true")
    assert done.returncode == 52
    done = qcode.run("run", "do", f"--model={script}", "--tools=Reed")
    assert done.returncode == 52
    assert "Did you mean Read?" in done.stderr


def test_the_shell_is_told_that_nobody_is_there(qcode: Qcode) -> None:
    asks = call("run_shell_command", command="read -r answer && echo got $answer || echo no one")
    script = qcode.script({"calls": [asks]}, {"expect": "no one", "text": "Done."})
    assert qcode.run("run", "do", f"--model={script}", "--yolo").returncode == 0
