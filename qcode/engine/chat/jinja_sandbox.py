"""Renders a template nobody has vouched for; run as a process of its own, with nothing of ours.

Standard input holds `{"source", "variables": [...]}`, one set of variables for each rendering;
standard output gets `{"texts": [...]}` or `{"error"}`. The process limits its own processor time
and memory before it looks at the template.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime

_CPU_S = 2
_MEMORY_BYTES = 256 << 20
_MAX_OUTPUT = 64 << 20


def limit_self() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the caller's time limit remains
        return
    for kind, value in (
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
    ):
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS refuses a limit on address space
            continue


def compile_template(source: str) -> Callable[[dict[str, object]], str]:
    """From variables to text. Raises jinja2.TemplateError, and what the template itself raises."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, indent: int | None = None) -> str:
        # Jinja's own filter escapes markup and non-ASCII characters for HTML.
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = environment.from_string(source)
    return lambda variables: str(template.render(**variables))


def main() -> None:
    request = json.load(sys.stdin)
    limit_self()
    try:
        render = compile_template(request["source"])
        answer: dict[str, object] = {"texts": [render(one) for one in request["variables"]]}
    except Exception as error:  # noqa: BLE001 - a template can raise anything; the caller is told
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    text = json.dumps(answer)
    if len(text) > _MAX_OUTPUT:
        text = json.dumps({"error": "the rendered prompt is too long"})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
