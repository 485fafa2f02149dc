"""Which AGENTS.md files are read, in what order, and what they may bring in."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcode.agent.instructions import MAX_BYTES, load_instructions


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / "src" / "deep").mkdir(parents=True)
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_found_where_there_is_nothing(project: Path) -> None:
    found = load_instructions(project)
    assert (found.text, found.files, found.notes) == ("", (), ())


def test_the_users_file_is_first_and_the_nearest_last(project: Path, tmp_path: Path) -> None:
    user = write(tmp_path / "config" / "qcode" / "AGENTS.md", "mine")
    write(project / "AGENTS.md", "root")
    write(project / "src" / "AGENTS.md", "near")
    write(project / "src" / "deep" / "AGENTS.md", "too deep")
    write(tmp_path / "AGENTS.md", "outside")
    found = load_instructions(project / "src", user_directory=user.parent)
    assert found.text == (
        "## From AGENTS.md\n\nmine\n\n## From AGENTS.md\n\nroot\n\n## From src/AGENTS.md\n\nnear"
    )
    assert found.notes == ()


def test_one_file_for_each_directory_by_rank(project: Path) -> None:
    write(project / "CLAUDE.md", "third")
    assert "third" in load_instructions(project).text
    write(project / "QWEN.md", "second")
    assert "second" in load_instructions(project).text
    write(project / "AGENTS.md", "first")
    assert load_instructions(project).text == "## From AGENTS.md\n\nfirst"
    write(project / "AGENTS.override.md", "override")
    assert load_instructions(project).text == "## From AGENTS.override.md\n\noverride"


def test_an_untrusted_project_is_not_read(project: Path, tmp_path: Path) -> None:
    write(project / "AGENTS.md", "theirs")
    user = write(tmp_path / "user" / "AGENTS.md", "mine").parent
    found = load_instructions(project, user_directory=user, trusted=False)
    assert "theirs" not in found.text
    assert "mine" in found.text


def test_without_git_only_the_working_directory_counts(tmp_path: Path) -> None:
    write(tmp_path / "AGENTS.md", "above")
    write(tmp_path / "here" / "AGENTS.md", "here")
    assert load_instructions(tmp_path / "here").text == "## From AGENTS.md\n\nhere"


def test_imports_are_relative_to_their_file(project: Path) -> None:
    write(project / "AGENTS.md", "See @docs/style.md and go.")
    write(project / "docs" / "style.md", "style, @more.md")
    write(project / "docs" / "more.md", "more\n")
    assert "See style, more and go." in load_instructions(project).text


def test_what_is_no_import_stays_as_it_is(project: Path) -> None:
    text = (
        "Ask me@example.org or @somebody, use `@style.md` or ``x @style.md``.\n"
        "```\n@style.md\n```\n~~~py\n@style.md\n```\n@style.md\n~~~"
    )
    write(project / "AGENTS.md", text)
    write(project / "style.md", "IMPORTED")
    assert load_instructions(project).text == f"## From AGENTS.md\n\n{text}"


def test_an_import_after_a_fence_counts(project: Path) -> None:
    write(project / "AGENTS.md", "```\n@a.md\n```\n@a.md")
    write(project / "a.md", "IMPORTED")
    assert load_instructions(project).text.count("IMPORTED") == 1


@pytest.mark.parametrize("path", ["../outside.md", "/etc/hostname", "link.md", "~/x.md"])
def test_imports_do_not_lead_out_of_the_project(project: Path, path: str) -> None:
    outside = write(project.parent / "outside.md", "SECRET")
    (project / "link.md").symlink_to(outside)
    write(project / "AGENTS.md", f"@{path}")
    found = load_instructions(project)
    assert found.text == f"## From AGENTS.md\n\n@{path}"


def test_a_file_of_instructions_may_not_be_a_link_out(project: Path) -> None:
    (project / "AGENTS.md").symlink_to(write(project.parent / "outside.md", "SECRET"))
    found = load_instructions(project)
    assert found.text == ""
    assert "leads out" in found.notes[0]


def test_secrets_are_not_imported(project: Path) -> None:
    write(project / "AGENTS.md", "@.env")
    write(project / ".env", "PASSWORD=1")
    assert "PASSWORD" not in load_instructions(project).text


def test_imports_in_a_circle_end(project: Path) -> None:
    write(project / "AGENTS.md", "a @b.md")
    write(project / "b.md", "b @AGENTS.md")
    assert load_instructions(project).text == "## From AGENTS.md\n\na b @AGENTS.md"


def test_imports_go_five_deep(project: Path) -> None:
    write(project / "AGENTS.md", "0 @1.md")
    for number in range(1, 8):
        write(project / f"{number}.md", f"{number} @{number + 1}.md")
    found = load_instructions(project)
    assert found.text == "## From AGENTS.md\n\n0 1 2 3 4 5 @6.md"
    assert "5 deep" in found.notes[0]


def test_all_together_are_limited(project: Path) -> None:
    write(project / "AGENTS.md", "x" * (MAX_BYTES - 10))
    write(project / "src" / "AGENTS.md", "y" * 100)
    found = load_instructions(project / "src")
    assert found.text.count("y") == 10
    assert "32 KiB" in found.notes[0]


def test_any_bytes_are_read(project: Path) -> None:
    (project / "AGENTS.md").write_bytes(b"\xef\xbb\xbfbad \xff byte")
    assert load_instructions(project).text == "## From AGENTS.md\n\nbad \ufffd byte"
