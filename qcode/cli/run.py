"""`qcode run`: one task, no conversation."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from qcode.cli.flags import (
    AllowFlag,
    ApprovalModeFlag,
    BaseUrlFlag,
    ContextFlag,
    ContinueFlag,
    DenyFlag,
    KVDtypeFlag,
    ModelFlag,
    ProfileFlag,
    SandboxFlag,
    TrustFlag,
    VerboseFlag,
    YoloFlag,
    chosen_mode,
    session_choice,
    setting_flags,
)
from qcode.cli.headless_run import HeadlessRun, Streams
from qcode.cli.logs import configure_logging
from qcode.cli.standard_streams import open_missing_streams
from qcode.config.locations import Locations
from qcode.config.options import RunOptions

command = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Do one task without a conversation, and end."
)


@command.command(context_settings={"allow_extra_args": True})
def run(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to do. `-`, or nothing: read it from standard input. TASK -: wait for data."
        ),
    ] = None,
    output_format: Annotated[
        Literal["text", "json", "stream-json"],
        typer.Option(help="What stdout gets: the answer, one JSON array, or one object a line."),
    ] = "text",
    input_format: Annotated[
        Literal["text", "stream-json"],
        typer.Option(help="stream-json: a message a line on stdin, each a turn, until its end."),
    ] = "text",
    include_partial_messages: Annotated[
        bool,
        typer.Option("--include-partial-messages", help="With stream-json: also each delta."),
    ] = False,
    json_schema: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="The answer is JSON that obeys this schema."),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE", help="Also write the answer to this file."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--cwd", "-C", metavar="DIR", exists=True, file_okay=False, help="Work in this folder."
        ),
    ] = None,
    model: ModelFlag = None,
    base_url: BaseUrlFlag = None,
    context_window: ContextFlag = None,
    kv_dtype: KVDtypeFlag = None,
    approval_mode: ApprovalModeFlag = None,
    yolo: YoloFlag = False,
    allow: AllowFlag = None,
    deny: DenyFlag = None,
    tools: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="The model's tools, as Read,edit; empty: none."),
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In the place of qcode's own.")
    ] = None,
    append_system_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="At the end of the system prompt.")
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="Done only when this succeeds; exit 60 if it never does."),
    ] = None,
    best_of: Annotated[
        str | None,
        typer.Option(metavar="N", help="Attempts in copies; --verify chooses the one to keep."),
    ] = None,
    profile: ProfileFlag = None,
    sandbox: SandboxFlag = None,
    max_turns: Annotated[
        str | None, typer.Option(metavar="N", help="Model requests at most; exit 53 beyond.")
    ] = None,
    max_wall_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="As 90, 30s, 5m, 1h; exit 55 beyond.")
    ] = None,
    max_tool_calls: Annotated[
        str | None, typer.Option(metavar="N", help="Tool calls at most; exit 55 beyond.")
    ] = None,
    max_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens read and written; exit 55 beyond.")
    ] = None,
    max_cost: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="By the prices in the settings; exit 55 beyond."),
    ] = None,
    go_on: ContinueFlag = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with this conversation.")
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep no record of the conversation.")
    ] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Read no settings files and no AGENTS.md.")
    ] = False,
    trust: TrustFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Do one task without a conversation, and end.

    Progress goes to stderr, the answer to stdout. What would need a person's yes is refused,
    unless stdin and stderr are a terminal.
    """
    wait = context.args == ["-"]
    if context.args and not wait:
        task = " ".join([prompt or "", *context.args])
        context.fail(f"Put the task in quotes: qcode run {shlex.quote(task)}")
    many = input_format == "stream-json"
    if many and (prompt not in (None, "-") or wait or output_format != "stream-json"):
        context.fail("--input-format stream-json takes no prompt and needs --output-format too.")
    open_missing_streams()
    configure_logging(Locations.from_environment(os.environ).log, verbose=verbose)
    flags = setting_flags(
        model=model,
        base_url=base_url,
        context_window=context_window,
        kv_dtype=kv_dtype,
        approval_mode=chosen_mode(approval_mode, yolo=yolo),
        allow=allow,
        deny=deny,
        tools=tools,
        system_prompt=system_prompt,
        append_system_prompt=append_system_prompt,
        verify=verify,
        best_of=best_of,
        profile=profile,
        sandbox=sandbox,
        max_turns=max_turns,
        max_wall_time=max_wall_time,
        max_tool_calls=max_tool_calls,
        max_tokens=max_tokens,
        max_cost=max_cost,
    )
    options = RunOptions(
        cwd=(directory or Path.cwd()).resolve(),
        flags=flags,
        session=session_choice(go_on=go_on, resume=resume, ephemeral=ephemeral),
        trust=trust,
        bare=bare,
        verbose=verbose,
    )
    streams = Streams(
        prompt=prompt,
        wait=wait,
        output_format=output_format,
        many=many,
        partial=include_partial_messages,
        output_file=output_file,
        json_schema=json_schema,
    )
    raise typer.Exit(HeadlessRun(options, streams).to_end())
