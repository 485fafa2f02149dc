"""The `edit` tool."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from qcode.protocol.errors import ToolError
from qcode.protocol.permissions import Access, DiffDisplay, PermissionRequest
from qcode.protocol.tools import ToolContext, ToolResult
from qcode.sandbox.workspace import TextFile, Workspace
from qcode.tools.file_access import file_request, shown_path
from qcode.tools.file_records import FileRecords
from qcode.tools.text_edit import Edit as TextEdit
from qcode.tools.text_edit import replace_text
from qcode.tools.text_lines import numbered_lines, split_lines
from qcode.tools.write_file import read_if_there, resolve_for_writing, syntax_note

_CONTEXT_LINES = 2
_MAX_SHOWN_LINES = 40


class EditParams(BaseModel):
    file_path: str = Field(description="File to change.")
    old_string: str = Field(
        description="Text to replace, exactly as in the file and unique in it. "
        "Empty to create a new file."
    )
    new_string: str = Field(description="Text to put in its place.")
    replace_all: bool = Field(False, description="Replace every occurrence.")


@dataclass(frozen=True, slots=True)
class _Planned:
    path: Path
    name: str
    old: TextFile | None
    edit: TextEdit


class Edit:
    name = "edit"
    description = "Replace text in a file you have read."
    parameters = EditParams

    def __init__(self, workspace: Workspace, records: FileRecords) -> None:
        self._workspace = workspace
        self._records = records

    async def permission(self, params: EditParams) -> PermissionRequest:
        planned = await self._plan(params)
        return file_request(
            self._workspace,
            tool=self.name,
            access=Access.EDIT,
            path=planned.path,
            title=f"{'Create' if planned.old is None else 'Edit'} {planned.name}",
            preview=_display(planned),
        )

    async def run(self, params: EditParams, context: ToolContext) -> ToolResult:
        planned = await self._plan(params)
        stamp = await self._workspace.write_text(
            planned.path,
            planned.edit.text,
            replaces=planned.old.stamp if planned.old else None,
            must_be_new=planned.old is None,
        )
        self._records.remember(planned.path, stamp)
        return ToolResult(
            content=_report(planned) + await asyncio.to_thread(_syntax_note, planned),
            display=_display(planned),
            changed_files=(str(planned.path),),
        )

    async def _plan(self, params: EditParams) -> _Planned:
        """What the edit would make of the file as it is now. Refused before anyone is asked."""
        path = resolve_for_writing(self._workspace, params.file_path)
        name = shown_path(self._workspace, path)
        old = await read_if_there(self._workspace, path)
        if old is None:
            if params.old_string:
                raise ToolError(f"there is no file {name}; an empty old_string creates it")
            lines = len(split_lines(params.new_string))
            created = TextEdit(text=params.new_string, first_line=1, last_line=lines)
            return _Planned(path, name, None, created)
        if not params.old_string:
            raise ToolError(f"{name} exists; give the text to replace in old_string")
        self._records.require(path, old.stamp, name)
        edit = await asyncio.to_thread(  # looking for what is most like it can take a second
            replace_text,
            old.text,
            params.old_string,
            params.new_string,
            replace_all=params.replace_all,
        )
        return _Planned(path, name, old, edit)


def _display(planned: _Planned) -> DiffDisplay:
    return DiffDisplay(
        path=planned.name,
        old_text=planned.old.text if planned.old else None,
        new_text=planned.edit.text,
    )


def _report(planned: _Planned) -> str:
    edit = planned.edit
    if planned.old is None:
        return f"Created {planned.name} ({edit.last_line} lines)."
    times = f" in {edit.replacements} places; the first" if edit.replacements > 1 else ""
    last = min(edit.last_line, edit.first_line + _MAX_SHOWN_LINES)
    shown = numbered_lines(edit.text, edit.first_line - _CONTEXT_LINES, last + _CONTEXT_LINES)
    if last < edit.last_line:
        shown += f"\n[{edit.last_line - last} more changed lines]"
    note = f"\nNote: {edit.note}." if edit.note else ""
    return f"Edited {planned.name}{times}. It now reads:\n{shown}{note}"


def _syntax_note(planned: _Planned) -> str:
    return syntax_note(planned.name, planned.old, planned.edit.text)
