"""`qcode replay` as it is typed."""

from __future__ import annotations

from conftest import BROKEN, EDIT, MENDED, READ, Qcode


def test_a_session_is_run_again(qcode: Qcode) -> None:
    script = qcode.script({"calls": [READ]}, {"calls": [EDIT]}, {"text": "Fixed."})
    done = qcode.run("run", "mend it", f"--model={script}", "--allow=Edit")
    assert (qcode.project / "adding.py").read_text() == MENDED
    session = qcode.run("session", "list").stdout.split()[0]

    same = qcode.run("replay", session)
    assert same.returncode == 0, same.stderr
    assert same.stdout.startswith("The same: ")

    (qcode.project / "adding.py").write_text(BROKEN)
    live = qcode.run("replay", session, "--live", "--allow=Edit", "--until=2")
    assert live.returncode == 0, live.stdout + live.stderr
    assert (qcode.project / "adding.py").read_text() == BROKEN  # it ran in a copy

    (qcode.project / "adding.py").write_text(BROKEN + "# more\n")
    other = qcode.run("replay", session, "--live", "--allow=Edit")
    assert other.returncode == 1
    assert "First difference at step 1: the result of read_file." in other.stdout

    answers = qcode.script({"calls": [READ]}, {"text": "I would not."})
    asked = qcode.run("replay", session, f"--model={answers}")
    assert asked.returncode == 1
    assert "+I would not." in asked.stdout
    assert done.returncode == 0


def test_a_session_that_is_not_there(qcode: Qcode) -> None:
    assert qcode.run("replay", "nowhere").returncode == 42


def test_a_repair_that_qcode_led_is_run_again(qcode: Qcode) -> None:
    """The model is small: it answers with functions, and qcode tries them."""
    answers = [
        {"text": f"```python\ndef add(a, b):\n    return {body}\n```"}
        for body in ("a - b", "a * b", "a + b")
    ]
    model = qcode.script(*answers, strength="small")
    done = qcode.run("run", "fix the failing test", f"--model={model}", "--yolo")
    assert done.returncode == 0, done.stderr
    assert (qcode.project / "adding.py").read_text() == MENDED
    session = qcode.run("session", "list").stdout.split()[0]

    asked = qcode.run("replay", session, f"--model={qcode.script(*answers, strength='small')}")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "3 answers" in asked.stdout

    (qcode.project / "adding.py").write_text(BROKEN)
    live = qcode.run("replay", session, "--live", "--yolo")
    assert live.returncode == 0, live.stdout + live.stderr
    assert (qcode.project / "adding.py").read_text() == BROKEN
