"""What counts as an answer."""

from __future__ import annotations

import pytest

from qcode.frontends.approval_question import choices, read_answer


@pytest.mark.parametrize(
    ("line", "allowed", "scope", "note"),
    [
        ("y", True, "once", ""),
        (" YES \n", True, "once", ""),
        ("s", True, "session", ""),
        ("", False, "once", ""),
        ("n", False, "once", ""),
        ("use a list instead", False, "once", "use a list instead"),
        ("yes, but", False, "once", "yes, but"),
    ],
)
def test_answers(line: str, allowed: bool, scope: str, note: str) -> None:
    answer = read_answer(line)
    assert (answer.allowed, answer.scope, answer.note) == (allowed, scope, note)


def test_no_session_where_no_rule_could_cover_it() -> None:
    assert not read_answer("s", has_rule=False).allowed
    assert "s for this session" in choices(has_rule=True)
    assert "session" not in choices(has_rule=False)
