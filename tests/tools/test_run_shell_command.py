from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qcode.agent.permissions import PermissionPolicy
from qcode.protocol.errors import OutsideWorkspace, ToolError
from qcode.protocol.permissions import Mode
from qcode.tools.repository_config import repository_runs_programs
from qcode.tools.run_shell_command import MAX_COMMAND_BYTES, RunShellCommand

if TYPE_CHECKING:
    from tests.tools.conftest import Project

pytestmark = pytest.mark.anyio


@pytest.fixture
def shell(project: Project) -> RunShellCommand:
    return RunShellCommand(project.workspace, environment={"PATH": "/usr/bin:/bin"})


async def test_the_result_has_the_exit_code_and_the_output(
    project: Project, shell: RunShellCommand
) -> None:
    result = await project.run(shell, command="echo out; echo err >&2; exit 3")
    assert result.content == "exit code 3\nout\nerr"
    assert (result.exit_code, result.is_error) == (3, False)
    assert "".join(project.progress) == "out\nerr\n"
    assert (await project.run(shell, command="true")).content == "exit code 0, no output"


async def test_it_runs_in_a_directory_of_the_workspace(
    project: Project, shell: RunShellCommand
) -> None:
    project.write("sub/a", "")
    assert (await project.run(shell, command="ls", directory="sub")).content == "exit code 0\na"
    request = await project.ask(shell, command="ls", directory="sub")
    assert request.title == "ls (in sub)"
    with pytest.raises(OutsideWorkspace):
        await project.run(shell, command="ls", directory="..")
    with pytest.raises(ToolError, match="there is no directory missing"):
        await project.run(shell, command="ls", directory="missing")


async def test_a_time_limit_is_explained(project: Project, shell: RunShellCommand) -> None:
    result = await project.run(shell, command="echo begun; sleep 60", timeout=1)
    assert result.is_error
    assert result.content == (
        "stopped after 1 s; probably an endless loop or a program waiting for input\nbegun"
    )


async def test_colours_and_rewritten_lines_are_not_for_the_model(
    project: Project, shell: RunShellCommand
) -> None:
    result = await project.run(
        shell, command=r"printf '\033[31mred\033[0m 1%%\r2%%\rdone\r\nnext\033]0;title\007\n'"
    )
    assert result.content == "exit code 0\ndone\nnext"


async def test_long_output_names_the_file_that_has_it_all(project: Project, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    shell = RunShellCommand(project.workspace, spill_directory=spill)
    content = (await project.run(shell, command="seq 1 20000")).content
    (file,) = spill.iterdir()
    assert content.splitlines()[0] == f"exit code 0 (long output; all of it is in {file})"
    assert len(content) < 40_000


async def test_impossible_commands_are_refused(project: Project, shell: RunShellCommand) -> None:
    with pytest.raises(ToolError, match="too long"):
        await project.ask(shell, command="x" * (MAX_COMMAND_BYTES + 1))
    with pytest.raises(ToolError, match="NUL"):
        await project.ask(shell, command="ls \0")


@pytest.fixture
def laid_out(project: Project, tmp_path: Path) -> Project:
    project.write("a.py", "a")
    project.write("src/b.py", "b")
    project.write("hidden/.env", "KEY=1")
    project.write("bin/wc", "#!/bin/sh\n").chmod(0o755)
    (tmp_path / "outside").write_text("x")
    (project.root / "link").symlink_to(tmp_path / "outside")
    (project.root / "up").symlink_to("..")
    (project.root / "src" / "zz_link.py").symlink_to("/etc/passwd")
    return project


@pytest.mark.parametrize(
    ("command", "decision"),
    [
        ("cat a.py", "allow"),
        ("cat src/../a.py", "allow"),
        ("cd src && cat b.py", "allow"),
        ("head -5 *.py", "allow"),
        ("grep -rn b src", "allow"),
        ("wc -l < a.py", "allow"),
        ("cat a.py 2>/dev/null", "allow"),
        ("cat /etc/passwd", "ask"),
        ("cat ../x", "ask"),
        ("cat link", "ask"),
        ("cat up/x", "ask"),
        ("cat ~/.bashrc", "ask"),
        ("cat ~root/x", "ask"),
        ("wc -l < /etc/passwd", "ask"),
        ("cat src/*.py", "ask"),
        ("ls /", "ask"),
        ("cd .. && ls", "ask"),
        ("cd src && cat ../../x", "ask"),
        ("cd src; cd ..; cd ..; ls", "ask"),
        ("cd up && cat a.py", "ask"),
        ("grep --exclude-dir=/etc x", "ask"),
        ("head -n5 /dev/zero", "ask"),
        ("cat hidden/.env", "ask"),
        ("cat hidden/.e*", "ask"),
        ("cat hidden/.en[v]", "ask"),
        ("grep -rn KEY .", "ask"),
        ("grep -rn KEY hidden", "ask"),
        ("grep -rn src", "ask"),
        ("grep -r -A 3 src", "ask"),
        ("grep -r --include x src", "ask"),
        ("cd src && cat ../a.py", "ask"),  # too careful: the cd might not be taken
        ("git show HEAD:hidden/.env", "ask"),
        ("diff -r hidden src", "ask"),
    ],
)
async def test_paths_decide_about_safe_commands(
    laid_out: Project, shell: RunShellCommand, command: str, decision: str
) -> None:
    policy = PermissionPolicy(mode=Mode.DEFAULT, workspace_root=laid_out.root)
    assert policy.decide(await laid_out.ask(shell, command=command)).decision == decision


async def test_a_program_of_the_workspace_is_no_safe_command(laid_out: Project) -> None:
    policy = PermissionPolicy(mode=Mode.DEFAULT, workspace_root=laid_out.root)
    for search_path, decision in (
        (f"{laid_out.root}/bin:/usr/bin:/bin", "ask"),
        ("bin::/usr/bin:/bin", "allow"),
        ("/usr/bin:/bin", "allow"),
    ):
        shell = RunShellCommand(laid_out.workspace, environment={"PATH": search_path})
        request = await laid_out.ask(shell, command="wc -l a.py")
        assert policy.decide(request).decision == decision
        if decision == "allow":
            assert "0 a.py" in (await laid_out.run(shell, command="wc -l a.py")).content


CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        ("", False),
        ('[remote "origin"]\n\turl = https://x\n\tfetch = +refs/*:refs/*\n', False),
        ('[branch "main"]\n\tremote = origin\n# [include]\n', False),
        ("[user]\n\tname = A B\n", False),
        ("[core]\n\tfsmonitor = true\n", False),
        ("[core]\n\tfsmonitor = ./x\n", True),
        ("[CORE]\n\tFSMonitor = ./x\n", True),
        ("[core] fsmonitor = ./x\n", True),
        ("[core]\n\thooksPath = x\n", True),
        ("[core]\n\tpager = x\n", True),
        ("[core]\n\tsshCommand = x\n", True),
        ("[diff]\n\texternal = x\n", True),
        ('[diff "d"]\n\tcommand = x\n', True),
        ('[diff "d"]\n\ttextconv = x\n', True),
        ("[diff.d]\n\ttextconv = x\n", True),
        ('[filter "f"]\n\tclean = x\n', True),
        ("[pager]\n\tlog = x\n", True),
        ('[gpg "ssh"]\n\tprogram = x\n', True),
        ("[credential]\n\thelper = x\n", True),
        ("[include]\n\tpath = x\n", True),
        ('[includeIf "gitdir:x"]\n\tpath = x\n', True),
        ('[remote "o"]\n\tuploadpack = x\n', True),
        ('[remote "o"]\n\turl = ext::sh -c x\n', True),
        ("[alias]\n\tstatus = !x\n", True),
        ("[core]\n\tx = a\\\n[filter]\n", True),
        ("not a configuration {\n", True),
    ],
)
def test_a_repository_s_configuration_can_run_programs(
    project: Project, config: str, runs: bool
) -> None:
    project.write(".git/config", CONFIG + config)
    project.write("sub/a")
    assert repository_runs_programs(project.root / "sub") is runs


def test_a_fresh_repository_runs_none(project: Project) -> None:
    subprocess.run(["git", "init", "-q", str(project.root)], check=True, timeout=20)
    assert not repository_runs_programs(project.root)
    hook = project.write(".git/hooks/post-index-change", "#!/bin/sh\n")
    assert repository_runs_programs(project.root)
    hook.unlink()
    project.write(".git/hooks/fsmonitor-watchman", "#!/bin/sh\n")
    assert repository_runs_programs(project.root)


def test_configuration_that_lies_elsewhere_counts_as_dangerous(project: Project) -> None:
    project.write("bare/HEAD", "ref: refs/heads/main\n")
    (project.root / "bare" / "objects").mkdir()
    project.write("worktree/.git", "gitdir: /elsewhere\n")
    (project.root / "linked").mkdir()
    (project.root / "linked" / ".git").symlink_to("/elsewhere")
    for name in ("bare", "worktree", "linked"):
        assert repository_runs_programs(project.root / name)


async def test_git_asks_in_such_a_repository(project: Project, shell: RunShellCommand) -> None:
    policy = PermissionPolicy(mode=Mode.DEFAULT, workspace_root=project.root)
    project.write(".git/config", CONFIG)
    assert policy.decide(await project.ask(shell, command="git status")).decision == "allow"
    project.write(".git/config", CONFIG + "\tfsmonitor = ./evil\n")
    assert policy.decide(await project.ask(shell, command="git status")).decision == "ask"
    assert policy.decide(await project.ask(shell, command="ls")).decision == "allow"
