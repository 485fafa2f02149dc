from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcode.protocol.errors import ToolError
from qcode.sandbox.process import KEPT_BYTES, CommandResult, child_environment, run_command

pytestmark = pytest.mark.anyio


async def run(command: str, directory: Path, timeout_s: float = 30.0) -> CommandResult:
    return await run_command(
        command, directory=directory, timeout_s=timeout_s, spill_directory=directory
    )


def processes_with(argument: str) -> Iterator[int]:
    """Living processes that have `argument` among their arguments."""
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments:
            yield int(entry.name)


async def test_output_exit_code_and_directory(tmp_path: Path) -> None:
    result = await run("pwd; echo error >&2; exit 3", tmp_path)
    assert result.output == f"{tmp_path}\nerror\n"
    assert (result.exit_code, result.timed_out, result.omitted_bytes) == (3, False, 0)


async def test_a_signalled_command_has_the_shell_s_code(tmp_path: Path) -> None:
    assert (await run("kill -9 $$", tmp_path)).exit_code == 137


async def test_standard_input_is_empty_and_there_is_no_terminal(tmp_path: Path) -> None:
    result = await run(
        "cat; test -t 0 || echo none; (: </dev/tty) 2>/dev/null || echo no", tmp_path
    )
    assert result.output == "none\nno\n"


async def test_output_streams_in_whole_characters(tmp_path: Path) -> None:
    pieces: list[str] = []
    await run_command(
        r"printf 'a\303'; sleep 0.05; printf '\244b\377'",
        directory=tmp_path,
        timeout_s=30,
        on_output=pieces.append,
    )
    assert "".join(pieces) == "aäb\\xff"


async def test_long_output_keeps_both_ends_and_spills_the_whole(tmp_path: Path) -> None:
    result = await run("seq 1 40000", tmp_path)
    whole = "".join(f"{n}\n" for n in range(1, 40001))
    assert result.head == whole[:KEPT_BYTES]
    assert result.tail == whole[-KEPT_BYTES:]
    assert result.omitted_bytes == len(whole) - 2 * KEPT_BYTES
    assert result.spill_path is not None
    assert result.spill_path.read_text() == whole
    assert stat.S_IMODE(result.spill_path.stat().st_mode) == 0o600
    assert f"{result.omitted_bytes} bytes left out" in result.output
    assert str(result.spill_path) in result.output


async def test_output_just_within_the_limits_is_whole_and_leaves_no_file(tmp_path: Path) -> None:
    result = await run(f"printf 'ä%.0s' $(seq {KEPT_BYTES})", tmp_path)
    assert result.output == "ä" * KEPT_BYTES
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_output_without_a_place_to_spill_still_succeeds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = await run_command(
        "seq 1 40000", directory=tmp_path, timeout_s=30, spill_directory=tmp_path / "file" / "x"
    )
    assert result.exit_code == 0
    assert result.spill_path is None
    assert result.omitted_bytes > 0


async def test_time_limit_interrupts_first_so_that_python_says_where(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text("def spin():\n    while True:\n        pass\n\nspin()\n")
    result = await run("python3 hang.py; echo not reached", tmp_path, timeout_s=1.0)
    assert result.timed_out
    assert "KeyboardInterrupt" in result.output
    assert "in spin" in result.output
    assert result.duration_s < 5


async def test_time_limit_ends_what_ignores_it_and_what_left_the_group(tmp_path: Path) -> None:
    result = await run(
        "trap '' INT TERM; env -i setsid sleep 987654.1 & (setsid sleep 987654.1 &) ;"
        " sleep 987654.1; sleep 987654.1",
        tmp_path,
        timeout_s=0.3,
    )
    assert result.timed_out
    assert result.exit_code == 137
    assert list(processes_with("987654.1")) == []


async def test_cancelling_kills_every_descendant(tmp_path: Path) -> None:
    ready = asyncio.Event()
    task = asyncio.create_task(
        run_command(
            "setsid sleep 987654.2 & sleep 987654.2 & echo ready; wait",
            directory=tmp_path,
            timeout_s=60,
            on_output=lambda text: ready.set(),
        )
    )
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(processes_with("987654.2")) == []


async def test_a_second_cancellation_still_kills(tmp_path: Path) -> None:
    started: asyncio.Queue[str] = asyncio.Queue()
    task = asyncio.create_task(
        run_command(
            "trap '' TERM; echo $$; while :; do sleep 0.01; done",
            directory=tmp_path,
            timeout_s=60,
            on_output=started.put_nowait,
        )
    )
    pid = int(await started.get())
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 10)
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


async def test_a_background_child_does_not_hold_the_result_back(tmp_path: Path) -> None:
    result = await run("sleep 987654.4 & echo started $!", tmp_path)
    assert result.duration_s < 5
    word, pid = result.output.split()
    assert (word, result.exit_code) == ("started", 0)
    os.kill(int(pid), 9)


async def test_a_missing_directory_is_the_model_s_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="could not be started"):
        await run("true", tmp_path / "missing")


async def test_the_environment_is_an_allow_list() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONPATH": "src",
        "OPENAI_API_KEY": "k",
        "AWS_SESSION_TOKEN": "t",
        "PYTHON_KEYRING_BACKEND": "b",
        "LC_PASSWORD": "p",
        "BASH_ENV": "/evil",
        "LD_PRELOAD": "/evil.so",
        "GIT_DIR": "/elsewhere",
        "MINE": "1",
        "MY_TOKEN": "2",
    }
    passed = child_environment(given, also_pass=("MINE", "MY_TOKEN"))
    assert {name: passed.get(name) for name in given} == {
        **dict.fromkeys(given),
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONPATH": "src",
        "MINE": "1",
        "MY_TOKEN": "2",
    }
    assert (passed["TERM"], passed["PAGER"], passed["GIT_TERMINAL_PROMPT"]) == ("dumb", "cat", "0")
