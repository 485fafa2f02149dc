"""The interactive program as a person sees it: the real command in a real pty."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from terminal import CTRL_C, CTRL_D, ENTER, SHIFT_TAB, Terminal

Step = dict[str, Any]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "greeting.py").write_text('WORD = "hello"\n')
    return folder


def start(project: Path, steps: list[Step], *flags: str, **terminal: Any) -> Terminal:
    script = project.parent / "script.json"
    script.write_text(json.dumps(steps))
    command = [sys.executable, "-m", "qcode", "--model", f"scripted:{script}", *flags]
    return Terminal(command, cwd=project, **terminal)


def call(name: str, **arguments: Any) -> Step:
    return {"calls": [{"name": name, "arguments": arguments}]}


EDIT = call("edit", file_path="greeting.py", old_string='"hello"', new_string='"good day"')
READ = call("read_file", file_path="greeting.py")


def test_an_answer_is_shown_once_and_stays_in_the_scrollback(project: Path) -> None:
    lines = "\n\n".join(f"Line {number} of the answer." for number in range(40))
    with start(project, [{"text": f"# Title\n\n{lines}\n\nThe **end**."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("talk to me" + ENTER)
        terminal.see("The end.")
        terminal.see("tokens in")
        shown = terminal.text()
        assert [shown.count(f"Line {number} of the answer.") for number in range(40)] == [1] * 40
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
        assert "qcode --resume" in terminal.text()


def test_an_edit_is_asked_about_with_its_diff_and_then_made(project: Path) -> None:
    with start(project, [READ, EDIT, {"text": "All done."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("greet formally" + ENTER)
        terminal.see("Allow?")
        terminal.see('- WORD = "hello"')
        terminal.see('+ WORD = "good day"')
        assert (project / "greeting.py").read_text() == 'WORD = "hello"\n'
        terminal.type("y" + ENTER)
        terminal.see("All done.")
        assert (project / "greeting.py").read_text() == 'WORD = "good day"\n'
        assert terminal.text().count('+ WORD = "good day"') == 1


def test_an_edit_that_nobody_was_asked_about_is_shown(project: Path) -> None:
    with start(project, [READ, EDIT, {"text": "All done."}], "--yolo") as terminal:
        terminal.see("Shift+Tab")
        terminal.type("greet formally" + ENTER)
        terminal.see("All done.")
        assert terminal.text().count('+ WORD = "good day"') == 1


def test_an_empty_line_is_a_no(project: Path) -> None:
    with start(project, [READ, EDIT, {"expect": "denied", "text": "As you wish."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("greet formally" + ENTER)
        terminal.see("Allow?")
        terminal.type(ENTER)
        terminal.see("As you wish.")
        assert (project / "greeting.py").read_text() == 'WORD = "hello"\n'


def test_feedback_reaches_the_model(project: Path) -> None:
    steps = [READ, EDIT, {"expect": "say good morning", "text": "Better idea."}]
    with start(project, steps) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("greet formally" + ENTER)
        terminal.see("Allow?")
        terminal.type("say good morning instead" + ENTER)
        terminal.see("Better idea.")


def test_keys_typed_before_the_question_do_not_answer_it(project: Path) -> None:
    slow = {"text": "Reading it first, slowly.", "delay_s": 0.3} | READ
    with start(project, [slow, EDIT, {"text": "End."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("greet formally" + ENTER)
        terminal.see("Reading it")
        terminal.type("y" + ENTER)
        terminal.see("Allow?")
        terminal.type(ENTER)
        terminal.see("End.")
        assert (project / "greeting.py").read_text() == 'WORD = "hello"\n'


def test_the_exact_command_is_shown_with_its_control_characters(project: Path) -> None:
    hidden = "echo safe\u202e; rm -r x\x1b[2K" + " " * 60 + "curl example.org"
    steps = [call("run_shell_command", command=hidden), {"text": "End."}]
    with start(project, steps, columns=200) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("run it" + ENTER)
        terminal.see("Allow?")
        shown = terminal.text()
        assert "<U+202E>" in shown
        assert "\\x1b" in shown
        assert "spaces]" in shown
        assert "curl example.org" in shown


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(project: Path) -> None:
    steps = [
        {"text": "One moment, this takes very long indeed and does not end soon", "delay_s": 1},
        {"text": "Here again."},
    ]
    with start(project, steps) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("work" + ENTER)
        terminal.see("One mom")
        terminal.type(CTRL_C)
        terminal.see("Stopped.")
        terminal.see("default")
        terminal.type("go on" + ENTER)
        terminal.see("Here again.")


def test_a_hurried_second_ctrl_c_leaves(project: Path) -> None:
    steps = [{"text": "Long work", "delay_s": 30}]
    with start(project, steps) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("work" + ENTER)
        terminal.see("Ctrl-C stops")
        terminal.type(CTRL_C)
        terminal.see("Stopped.")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130


def test_ctrl_c_at_the_prompt_clears_the_line(project: Path) -> None:
    with start(project, [{"expect": "second", "text": "Got the second."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("first")
        terminal.see("> first")
        terminal.type(CTRL_C)
        terminal.see("\n>\n")
        terminal.type("second" + ENTER)
        terminal.see("Got the second.")


def test_a_backslash_continues_the_line(project: Path) -> None:
    with start(project, [{"expect": "one\ntwo", "text": "Two lines."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("one\\" + ENTER + "two" + ENTER)
        terminal.see("Two lines.")


def test_commands_and_the_mode_key(project: Path) -> None:
    with start(project, [], rows=40) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("/help" + ENTER)
        terminal.see("show which model answers")
        terminal.type("/nonsense" + ENTER)
        terminal.see("No command /nonsense.")
        terminal.type(SHIFT_TAB)
        terminal.see("auto-edit · Shift+Tab")
        terminal.type("/approval plan" + ENTER)
        terminal.see("Mode: plan.")
        terminal.type("/quit" + ENTER)
        assert terminal.exit_code() == 0


def test_the_mode_chosen_before_the_first_prompt_holds(project: Path) -> None:
    with start(project, [READ, EDIT, {"text": "Unasked."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type(SHIFT_TAB)
        terminal.see("auto-edit")
        terminal.type("greet formally" + ENTER)
        terminal.see("Unasked.")
        assert (project / "greeting.py").read_text() == 'WORD = "good day"\n'


def test_a_conversation_is_continued(project: Path) -> None:
    with start(project, [{"text": "I will remember."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("the word is plum" + ENTER)
        terminal.see("tokens in")
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    with start(project, [{"text": "It was plum."}], "--continue") as terminal:
        terminal.see("Going on with: the word is plum")
        terminal.see("Shift+Tab")
        terminal.type("what was it?" + ENTER)
        terminal.see("It was plum.")


def test_a_model_cannot_drive_the_terminal(project: Path) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07visible\x1b[31m text"
    with start(project, [{"text": hostile}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("hi" + ENTER)
        terminal.see("visible text")
        terminal.see("tokens in")
        assert b"owned" not in terminal.raw
        assert b"\x1b[2J" not in terminal.raw


def test_no_color_and_a_narrow_window(project: Path) -> None:
    steps = [READ, EDIT, {"text": "Some **bold** words that need more than forty columns to show."}]
    terminal = start(project, steps, columns=40, environment={"NO_COLOR": "1"})
    with terminal:
        terminal.see("default")
        terminal.type("greet formally" + ENTER)
        terminal.see("Allow?")
        terminal.type("y" + ENTER)
        terminal.see("columns to show.")
        assert b"\x1b[31m" not in terminal.raw
        assert b"\x1b[32m" not in terminal.raw


def test_sentences_are_broken_between_words(project: Path) -> None:
    steps = [
        {"error": {"type": "unavailable", "message": "connection to the house was lost again"}}
    ]
    with start(project, steps, columns=30) as terminal:
        terminal.see("default")
        terminal.type("hi" + ENTER)
        terminal.see("connection to the house was\nlost again")


def test_a_model_that_cannot_be_had_is_told_and_the_prompt_comes_back(project: Path) -> None:
    command = [sys.executable, "-m", "qcode", "--model", "scripted:missing.json"]
    with Terminal(command, cwd=project) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("hello" + ENTER)
        terminal.see("missing.json")
        terminal.type("/quit" + ENTER)
        assert terminal.exit_code() == 0


def test_a_conversation_is_chosen_from_a_list(project: Path) -> None:
    for word in ("plum", "pear"):
        with start(project, [{"text": "I will remember."}]) as terminal:
            terminal.see("Shift+Tab")
            terminal.type(f"the word is {word}" + ENTER)
            terminal.see("tokens in")
            terminal.type(CTRL_D)
            assert terminal.exit_code() == 0
    with start(project, [{"text": "It was plum."}], "--resume", "--yolo") as terminal:
        terminal.see("Which one?")
        assert " 1  " in terminal.text()
        line = next(line for line in terminal.text().splitlines() if line.endswith("is plum"))
        terminal.type("7" + ENTER)
        terminal.see("There are 1 to 2.")
        terminal.type(line.split()[0] + ENTER)
        terminal.see("Going on with: the word is plum")
        terminal.see("yolo · ")
        terminal.type("what was it?" + ENTER)
        terminal.see("It was plum.")


def test_resume_without_an_earlier_conversation_begins_one(project: Path) -> None:
    with start(project, [{"text": "Welcome."}], "--resume") as terminal:
        terminal.see("no earlier conversation")
        terminal.see("Shift+Tab")
        terminal.type("hello" + ENTER)
        terminal.see("Welcome.")


def test_ctrl_c_while_the_first_prompt_opens_the_agent_gives_the_prompt_back(
    project: Path,
) -> None:
    script = project.parent / "pipe"
    os.mkfifo(script)  # opening blocks until something writes into it
    command = [sys.executable, "-m", "qcode", "--model", f"scripted:{script}"]
    with Terminal(command, cwd=project) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("hello" + ENTER)
        with script.open("w") as pipe:
            terminal.type(CTRL_C)
            terminal.see("Stopping.")
            pipe.write(json.dumps([{"text": "Here I am."}]))
        terminal.see("Shift+Tab", times=1)
        terminal.type("hello again" + ENTER)
        terminal.see("Here I am.")


def test_a_new_conversation_keeps_the_model(project: Path) -> None:
    with start(project, [{"text": "First."}, {"text": "Second."}]) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("one" + ENTER)
        terminal.see("tokens in")
        terminal.type("/clear" + ENTER)
        terminal.see("New conversation.")
        terminal.type("two" + ENTER)
        terminal.see("Second.")


def test_a_history_that_cannot_be_written_is_let_go(project: Path, tmp_path: Path) -> None:
    history = tmp_path / "home" / "state" / "history"
    environment = {"QCODE_HOME": str(tmp_path / "home")}
    with start(project, [{"text": "Hello."}], environment=environment) as terminal:
        terminal.see("Shift+Tab")
        history.unlink()
        history.mkdir()
        terminal.type("hi" + ENTER)
        terminal.see("tokens in")
        assert "Exception" not in terminal.text()


def test_a_long_command_leaves_room_for_the_time(project: Path) -> None:
    command = f"sleep 30; echo {'word ' * 40}"
    with start(project, [call("run_shell_command", command=command)], "--yolo") as terminal:
        terminal.see("Shift+Tab")
        terminal.type("run it" + ENTER)
        terminal.see("…  1 s")
        terminal.type(CTRL_C)
        terminal.see("Stopped.")


def test_the_context_can_be_looked_at_and_shortened(project: Path) -> None:
    with start(project, [{"text": "Hello."}], rows=40) as terminal:
        terminal.see("Shift+Tab")
        terminal.type("/context" + ENTER)
        terminal.see("There is no conversation yet.")
        terminal.type("hi" + ENTER)
        terminal.see("tokens in")
        terminal.type("/context" + ENTER)
        terminal.see("run_shell_command")
        terminal.see("Conversation")
        terminal.type("/compact" + ENTER)
        terminal.see("There is nothing to shorten.")
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
