"""The flags that several `qcode model` commands take, declared once."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qcode.engine.context_window import parse_context
from qcode.engine.options import KV_DTYPES, EngineOptions, KVDtypeName


def _context(text: str) -> int:
    try:
        return parse_context(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}.") from error


ModelArgument = Annotated[
    str, typer.Argument(help="An installed model, a .gguf file or a checkpoint.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ContextFlag = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="TOKENS",
        parser=_context,
        help="Tokens of prompt and answer, as 32768, 256K or 1M; beyond the model's own by YaRN.",
    ),
]
KVDtypeFlag = Annotated[
    KVDtypeName,
    typer.Option("--kv-dtype", help="How keys and values are kept; fp8 and int8 take half."),
]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DtypeFlag = Annotated[Dtype, typer.Option("--dtype", help="What is computed in.")]
ThreadsFlag = Annotated[
    int | None, typer.Option("--threads", min=1, help="As many as there are cores if not given.")
]


def engine_options(
    *, context: int | None, kv_dtype: KVDtypeName, dtype: Dtype, threads: int | None
) -> EngineOptions:
    return EngineOptions(
        context_window=context, kv_dtype=KV_DTYPES[kv_dtype], dtype=dtype, num_threads=threads
    )
