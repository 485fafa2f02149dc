from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcode.protocol.errors import FileChanged, NotText, OutsideWorkspace, ToolError
from qcode.sandbox.sensitive_paths import is_protected, is_secret
from qcode.sandbox.workspace import MAX_TEXT_BYTES, LocalWorkspace

pytestmark = pytest.mark.anyio


@pytest.fixture
def workspace(tmp_path: Path) -> LocalWorkspace:
    root = tmp_path / "proj"
    root.mkdir()
    (tmp_path / "proj-evil").mkdir()
    (tmp_path / "proj-evil" / "secret").write_text("secret")
    (root / "inner").mkdir()
    (root / "inner" / "out").symlink_to("../..")
    (root / "absolute").symlink_to("/")
    (root / "sideways").symlink_to("../proj-evil")
    (root / "self").symlink_to(".")
    return LocalWorkspace(root)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        (".", True),
        ("a/b.py", True),
        ("inner/../a", True),
        ("self/self/a", True),
        ("inner/out/proj/a", True),
        ("..", False),
        ("../proj-evil", False),
        ("inner/out/other", False),
        ("absolute/etc/passwd", False),
        ("sideways/secret", False),
        ("~/x", False),
        ("/etc/passwd", False),
    ],
)
def test_containment_follows_links_and_compares_components(
    workspace: LocalWorkspace, path: str, inside: bool
) -> None:
    assert workspace.contains(workspace.resolve(path)) is inside


PARTS = st.sampled_from(
    ["..", ".", "inner", "out", "absolute", "sideways", "self", "proj", "proj-evil", "new", "/", ""]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(parts=st.lists(PARTS, max_size=7))
async def test_no_path_escapes(workspace: LocalWorkspace, parts: list[str]) -> None:
    resolved = workspace.resolve("./" + "/".join(parts))
    root = str(workspace.root)
    joined = os.path.realpath("/".join([root, *parts]))  # noqa: ASYNC240
    really_inside = os.path.commonpath([root, joined]) == root
    assert workspace.contains(resolved) is really_inside
    if not really_inside:
        with pytest.raises(OutsideWorkspace):
            await workspace.write_text(resolved / "made", "x")


@pytest.mark.parametrize(
    "data",
    [
        b"a\nb\n",
        b"a\r\nb\r\n",
        b"a\r\nb\nc\rd",
        b"no final newline",
        b"",
        codecs.BOM_UTF8 + "grün\r\n".encode(),
        codecs.BOM_UTF16_LE + "grün\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "grün\n".encode("utf-16-be"),
        "grün 日本\n".encode(),
        "grün\n".encode("latin-1"),
        b"\x80\x81 any bytes \xff\n",
        b"form\x0cfeed\x1b[0m",
    ],
)
async def test_what_was_read_is_written_back_byte_for_byte(
    workspace: LocalWorkspace, data: bytes
) -> None:
    path = workspace.root / "file"
    path.write_bytes(data)
    file = await workspace.read(path)
    assert file.stamp.size == len(data)
    stamp = await workspace.write_text(path, file.text, replaces=file.stamp)
    assert path.read_bytes() == data
    assert stamp.sha256 == file.stamp.sha256


async def test_an_edit_keeps_the_encoding_and_refuses_what_it_cannot_hold(
    workspace: LocalWorkspace,
) -> None:
    path = workspace.root / "latin"
    path.write_bytes("schön\n".encode("latin-1"))
    await workspace.write_text(path, "schöner\n")
    assert path.read_bytes() == "schöner\n".encode("latin-1")
    with pytest.raises(ToolError, match=r"latin-1 and cannot hold '日' \(U\+65E5\)"):
        await workspace.write_text(path, "日本\n")
    assert path.read_bytes() == "schöner\n".encode("latin-1")


async def test_mode_is_kept_and_new_files_get_the_usual_one(workspace: LocalWorkspace) -> None:
    script = workspace.root / "run.sh"
    script.write_text("a")
    script.chmod(0o755)
    await workspace.write_text(script, "b")
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    await workspace.write_text(workspace.root / "new" / "deep" / "file", "c")
    created = workspace.root / "new" / "deep" / "file"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(created.stat().st_mode) == 0o666 & ~mask
    assert created.read_text() == "c"


async def test_a_link_stays_and_its_target_changes(workspace: LocalWorkspace) -> None:
    target = workspace.root / "target"
    target.write_text("old")
    link = workspace.root / "link"
    link.symlink_to("target")
    await workspace.write_text(workspace.resolve("link"), "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


async def test_a_link_put_in_place_after_the_check_is_not_followed(
    workspace: LocalWorkspace, tmp_path: Path
) -> None:
    outside = tmp_path / "proj-evil" / "secret"
    decided = workspace.resolve("later/secret")
    (workspace.root / "later").symlink_to(outside.parent)
    with pytest.raises(ToolError):
        await workspace.write_text(decided, "owned")
    with pytest.raises(ToolError):
        await workspace.read(decided)
    assert outside.read_text() == "secret"


async def test_hard_linked_names_stay_one_file(workspace: LocalWorkspace) -> None:
    first, second = workspace.root / "first", workspace.root / "second"
    first.write_text("old")
    second.hardlink_to(first)
    await workspace.write_text(first, "new")
    assert second.read_text() == "new"
    assert sorted(p.name for p in workspace.root.iterdir() if p.name.startswith(".qcode")) == []


async def test_a_stale_or_missing_or_unexpected_file_is_left_alone(
    workspace: LocalWorkspace,
) -> None:
    path = workspace.root / "file"
    path.write_text("one")
    stamp = (await workspace.read(path)).stamp
    path.write_text("two")
    with pytest.raises(FileChanged, match="read it again"):
        await workspace.write_text(path, "three", replaces=stamp)
    with pytest.raises(FileChanged, match="exists by now"):
        await workspace.write_text(path, "three", must_be_new=True)
    assert path.read_text() == "two"
    path.unlink()
    with pytest.raises(FileChanged, match="is gone"):
        await workspace.write_text(path, "three", replaces=stamp)
    assert not path.exists()


async def test_a_failed_write_leaves_the_old_bytes_and_no_other_file(
    workspace: LocalWorkspace,
) -> None:
    path = workspace.root / "file"
    path.write_text("old")
    with pytest.raises(ToolError):
        await workspace.write_text(path, "lone surrogate \ud800")
    with pytest.raises(ToolError):
        await workspace.write_text(path / "below-a-file", "x")
    assert path.read_text() == "old"
    assert [p.name for p in workspace.root.iterdir() if ".qcode-tmp" in p.name] == []


async def test_only_regular_text_files_are_read(workspace: LocalWorkspace) -> None:
    os.mkfifo(workspace.root / "pipe")
    (workspace.root / "binary").write_bytes(b"\x7fELF\0\0")
    with (workspace.root / "huge").open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    with pytest.raises(ToolError, match="not a regular file"):
        await workspace.read(workspace.root / "pipe")
    with pytest.raises(ToolError, match="not a regular file"):
        await workspace.read(Path("/dev/zero"))
    with pytest.raises(ToolError, match="is a directory"):
        await workspace.read(workspace.root / "inner")
    with pytest.raises(ToolError, match="no such file"):
        await workspace.read(workspace.root / "missing")
    with pytest.raises(ToolError, match="more than the limit"):
        await workspace.read(workspace.root / "huge")
    with pytest.raises(NotText, match="binary file of 6 bytes"):
        await workspace.read(workspace.root / "binary")
    with pytest.raises(ToolError, match="NUL"):
        workspace.resolve("a\0b")


@pytest.mark.parametrize(
    ("path", "secret", "protected"),
    [
        ("src/app.py", False, False),
        (".env", True, True),
        ("deploy/.ENV.production", True, True),
        (".env.example", False, False),
        ("keys/server.pem", True, True),
        ("/home/u/.ssh/id_ed25519", True, True),
        ("id_rsa.pub", False, False),
        ("/proc/1/environ", True, True),
        ("/home/u/.config/qcode/config.toml", True, True),
        (".git/config", False, True),
        (".GIT/hooks/pre-commit", False, True),
        ("sub/.git./config", False, True),
        ("GIT~1/config", False, True),
        (".gitignore", False, False),
        ("AGENTS.md", False, True),
        (".github/workflows/ci.yml", False, True),
        (".github/ISSUE_TEMPLATE.md", False, False),
        (".vscode/tasks.json", False, True),
        (".gitlab-ci.yml", False, True),
    ],
)
def test_sensitive_paths(path: str, secret: bool, protected: bool) -> None:
    assert (is_secret(Path(path)), is_protected(Path(path))) == (secret, protected)
