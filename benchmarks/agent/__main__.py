"""`python -m benchmarks.agent --model qwen2.5-coder:1.5b`: a line for each project, and totals."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections import Counter
from pathlib import Path

from benchmarks.agent.runner import Result, run_task
from benchmarks.agent.tasks import load_tasks

ROW = "{:<24}{:<28}{:>7}{:>7}{:>8}{:>9}{:>8}{:>8}  {}"


def main() -> None:
    arguments = _parser().parse_args()
    print(
        ROW.format("project", "kind", "tests", "hidden", "seconds", "turns", "in", "out", "failure")
    )
    results = []
    for task in load_tasks(arguments.project):
        result = run_task(task, model=arguments.model, limit_s=arguments.limit, keep=arguments.keep)
        print(_row(result), flush=True)
        results.append(result)
    print(_totals(results))
    if arguments.json:
        rows = [dataclasses.asdict(result) for result in results]
        arguments.json.write_text(json.dumps({"model": arguments.model, "results": rows}, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description=__doc__)
    parser.add_argument("--model", help="as for qcode run; default: the one qcode chooses")
    parser.add_argument("--project", action="append", help="only this one; repeatable")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one project")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--keep", type=Path, help="keep copies and transcripts in this directory")
    return parser


def _row(result: Result) -> str:
    return ROW.format(
        result.task,
        result.kind,
        "pass" if result.visible else "-",
        "pass" if result.hidden else "-",
        f"{result.seconds:.1f}",
        result.requests,
        result.input_tokens,
        result.output_tokens,
        result.failure,
    )


def _totals(results: list[Result]) -> str:
    if not results:
        return "no projects"
    solved = [result for result in results if result.solved]
    failures = Counter(result.failure for result in results if result.failure)
    seconds = [result.seconds for result in results]
    listed = ", ".join(f"{count} x {name}" for name, count in failures.most_common())
    num_visible = sum(result.visible for result in results)
    return (
        f"solved {len(solved)} of {len(results)} (visible tests: {num_visible}); "
        f"seconds: median {statistics.median(seconds):.1f}, longest {max(seconds):.1f}; "
        f"tokens: {sum(r.input_tokens for r in results)} in, "
        f"{sum(r.output_tokens for r in results)} out" + (f"; failures: {listed}" if listed else "")
    )


if __name__ == "__main__":
    main()
