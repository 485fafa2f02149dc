"""The bundled engine with a real small model under a JSON Schema."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Qcode

pytestmark = [
    pytest.mark.weights("0.5b"),
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(300),
]

SCHEMA = {
    "type": "object",
    "properties": {
        "language": {"enum": ["python", "rust", "c"]},
        "functions": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    },
    "required": ["language", "functions"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("tools", ["--tools=", "--tools=Read"])
def test_a_model_that_writes_prose_by_itself_obeys(qcode: Qcode, tools: str) -> None:
    model = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    done = qcode.run(
        "run",
        "Which language is this, and which functions does it define?",
        f"--model={model}",
        f"--json-schema={json.dumps(SCHEMA)}",
        "--max-turns=4",
        tools,
        stdin="def add(a, b):\n    return a - b\n",
        environment={"QCODE_TEMPERATURE": "0"},
        timeout_s=280,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {"language", "functions"}
    assert answer["language"] == "python"
