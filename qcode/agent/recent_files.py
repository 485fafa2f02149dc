"""The files that were last worked on, read again after a summary took their text away."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence

from qcode.agent.answer import HARNESS
from qcode.protocol.messages import AssistantMessage, Message, ToolCall, ToolMessage

READ_TOOL = "read_file"
FILE_TOOLS = frozenset({READ_TOOL, "edit", "write_file"})
MAX_FILES = 5
MAX_LINES = 200


def files_to_read_again(summarised: Sequence[Message], kept: Sequence[Message]) -> tuple[str, ...]:
    """The paths, as the model wrote them, of the files touched last, oldest first: without those
    that are read in what was kept."""
    still_there = {path for name, path in _touched(kept) if name == READ_TOOL}
    newest_first = [path for _, path in reversed([*_touched(summarised), *_touched(kept)])]
    wanted = [path for path in dict.fromkeys(newest_first) if path not in still_there]
    return tuple(reversed(wanted[:MAX_FILES]))


def reading(paths: Sequence[str], *, max_lines: int = MAX_LINES) -> AssistantMessage:
    """The calls that read them, as the model would have made them."""
    calls = tuple(
        ToolCall(
            id=f"read_{secrets.token_hex(4)}",
            name=READ_TOOL,
            arguments=json.dumps({"file_path": path, "limit": max_lines}, ensure_ascii=False),
        )
        for path in paths
    )
    return AssistantMessage(blocks=calls, stop_reason="tool_calls", model=HARNESS)


def _touched(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Tool and path of each file call that went well."""
    failed = {
        message.call_id
        for message in messages
        if isinstance(message, ToolMessage) and message.is_error
    }
    for message in messages:
        if isinstance(message, AssistantMessage):
            for call in message.tool_calls:
                path = _path(call)
                if path and call.name in FILE_TOOLS and call.id not in failed:
                    yield call.name, path


def _path(call: ToolCall) -> str:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return ""
    path = arguments.get("file_path") if isinstance(arguments, dict) else None
    return path if isinstance(path, str) else ""
