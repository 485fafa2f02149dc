from __future__ import annotations

from pathlib import Path

from qcode.agent.repair.failure import Failure, Frame
from qcode.agent.repair.imports import import_closure, module_file, python_modules
from qcode.agent.repair.project_files import ProjectFiles, is_test_file
from qcode.agent.repair.prompt import build_prompt
from qcode.agent.repair.sources import find_suspects

COUNT = '''\
"""Count words."""

from shop.words import split_words

LIMIT = 3


def frequencies(text):
    counts = {}
    for word in split_words(text):
        counts[word] = counts.get(word, 0) + 1
    return counts


def unrelated():
    return 1
'''
WORDS = """\
PUNCTUATION = ".,"


def split_words(text):
    return [word.strip(PUNCTUATION) for word in text.split()]
"""
TEST = """\
from shop.count import frequencies


def sample():
    return "a b, a"


class TestCount:
    def test_frequencies(self):
        counts = frequencies(sample())
        assert counts == {"a": 2, "b": 1}

    def test_other(self):
        assert frequencies("") == {}
"""


def project(root: Path, **files: str) -> ProjectFiles:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ProjectFiles(root)


def word_project(root: Path) -> ProjectFiles:
    return project(
        root,
        **{
            "src/shop/__init__.py": "",
            "src/shop/count.py": COUNT,
            "src/shop/words.py": WORDS,
            "tests/test_count.py": TEST,
            ".venv/lib/shop/count.py": "raise SystemExit",
        },
    )


FAILURE = Failure(
    test="tests/test_count.py::TestCount::test_frequencies",
    function="test_frequencies",
    text="E   assert {} == {'a': 2}",
    exception="AssertionError",
    frames=(Frame(path="tests/test_count.py", line=11, function="test_frequencies"),),
)


def test_the_failing_test_with_what_it_calls(tmp_path: Path) -> None:
    suspects = find_suspects(FAILURE, word_project(tmp_path))
    assert suspects.test.path == "tests/test_count.py"
    assert suspects.test.source == (
        'def sample():\n    return "a b, a"\n\n'
        "def test_frequencies(self):\n    counts = frequencies(sample())\n"
        '    assert counts == {"a": 2, "b": 1}'
    )
    assert suspects.test.failing_line == 'assert counts == {"a": 2, "b": 1}'


def test_suspects_by_evidence_without_tests_and_installed_packages(tmp_path: Path) -> None:
    suspects = find_suspects(FAILURE, word_project(tmp_path))
    assert [item.name for item in suspects.ranked][:2] == ["frequencies", "split_words"]
    assert "unrelated" not in [item.name for item in suspects.ranked]
    assert set(suspects.files) == {"src/shop/count.py", "src/shop/words.py"}


def test_the_traceback_says_most(tmp_path: Path) -> None:
    files = word_project(tmp_path)
    frames = (*FAILURE.frames, Frame(path=str(files.root / "src/shop/words.py"), line=5))
    failure = Failure(test=FAILURE.test, function="test_frequencies", text="", frames=frames)
    assert find_suspects(failure, files).ranked[0].name == "split_words"


def test_test_files_are_suspects_only_when_asked(tmp_path: Path) -> None:
    suspects = find_suspects(FAILURE, word_project(tmp_path), include_tests=True)
    assert "tests/test_count.py" in suspects.files


def test_modules_named_by_an_import() -> None:
    assert python_modules("a/b/c.py", "from . import x\nfrom ..y import z\nimport os.path\n") == [
        "a.b.x", "a.b", "a.y.z", "a.y", "os.path",
    ]  # fmt: skip
    assert python_modules("a.py", "def broken(") == []


def test_the_nearest_module_file() -> None:
    paths = ("lib/a/b.py", "src/a/b.py", "src/a/b/__init__.py", "tests/a/b.py", "xa/b.py")
    assert module_file("a.b", "src/a/main.py", paths) == "src/a/b.py"
    assert module_file("a.c", "src/a/main.py", paths) is None


def test_closure_of_scripts(tmp_path: Path) -> None:
    files = project(
        tmp_path,
        **{
            "test/a.test.js": 'import { a } from "../src/a.js";\n',
            "src/a.js": 'const b = require("./b");\n',
            "src/b.js": "module.exports = 1;\n",
            "src/c.js": "",
        },
    )
    assert import_closure(files, ["test/a.test.js"]) == ("src/a.js", "src/b.js")


def test_paths_outside_the_project_are_not_read(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    files = project(inside, **{"a.py": "x = 1\n"})
    (tmp_path / "secret.py").write_text("y = 2\n")
    (inside / "link.py").symlink_to(tmp_path / "secret.py")
    assert files.read("../secret.py") is None
    assert files.read("link.py") is None
    assert files.relative(str(tmp_path / "secret.py")) is None
    assert files.relative(str(inside / "a.py")) == "a.py"


def test_what_is_a_test_file() -> None:
    tests = ["tests/helpers.py", "test_a.py", "a_test.go", "src/a.test.ts", "conftest.py"]
    assert all(is_test_file(path) for path in tests)
    assert not any(is_test_file(path) for path in ["src/latest.py", "contest.py", "attest/a.py"])


def test_the_prompt_is_bounded_and_ends_with_the_most_suspicious_file(tmp_path: Path) -> None:
    long = "\n\n".join(f"def filler_{n}(value):\n    return value + {n}" for n in range(400))
    files = project(
        tmp_path,
        **{
            "shop/__init__.py": "",
            "shop/count.py": long + "\n\n\n" + COUNT,
            "shop/words.py": WORDS,
            "tests/test_count.py": TEST,
        },
    )
    prompt = build_prompt(FAILURE, find_suspects(FAILURE, files))
    assert len(prompt.text) < 2600
    assert prompt.shown[0].name == "frequencies"
    assert "def frequencies(text):" in prompt.text
    assert "filler_7" not in prompt.text
    assert prompt.text.index("def test_frequencies") < prompt.text.index("def split_words")
    assert prompt.text.index("def split_words") < prompt.text.index("def frequencies(text):")
