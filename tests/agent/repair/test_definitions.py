from __future__ import annotations

from qcode.agent.repair.definitions import find_definitions

PYTHON = """\
import re

LINE = re.compile(
    r"x"
)
limit: int = 3
nothing: int


@cached
def top(a, b=(1,
              2)):
    def inner():
        return a
    return inner


class Shop:
    name = "shop"

    async def sell(self, item):
        return await self.till(item)

    class Till:
        def open(self): return 1


if True:
    def late(): pass
"""

SCRIPT = """\
export function slugify(title) {
  const s = "}";  // } not this one
  return `${title}}`;
}

const double = async (x) => {
  return x * 2;
};

class Cart {
  total(percent) {
    if (percent) {
      return 1;
    }
    return 2;
  }
}
"""


def test_python_definitions() -> None:
    found = {item.qualified: item for item in find_definitions("a.py", PYTHON, "python")}
    assert list(found) == [
        "LINE", "limit", "top", "Shop.name", "Shop.sell", "Shop.Till.open", "late",
    ]  # fmt: skip
    assert found["LINE"].header == "LINE ="
    assert (found["LINE"].start, found["LINE"].end) == (3, 5)
    assert found["limit"].header == "limit:"
    assert found["top"].header == "def top("
    assert found["top"].text.startswith("def top(a, b=(1,")
    assert found["Shop.sell"].header == "    async def sell("
    assert found["Shop.sell"].indent == "    "
    assert "till" in found["Shop.sell"].calls
    assert found["Shop.Till.open"].indent == "        "


def test_python_that_does_not_parse_still_shows_its_functions() -> None:
    text = "def a(x):\n    return x +\n\n\nclass B:\n    def c(self):\n        return 1\n\nx = 1\n"
    found = find_definitions("a.py", text, "python")
    assert [(item.name, item.start, item.end) for item in found] == [("a", 1, 2), ("c", 6, 7)]
    assert found[1].header == "    def c("


def test_functions_between_braces() -> None:
    found = find_definitions("a.js", SCRIPT, "javascript")
    assert [(item.name, item.start, item.end) for item in found] == [
        ("slugify", 1, 4),
        ("double", 6, 8),
        ("total", 11, 16),
    ]
    assert found[2].indent == "  "


def test_go_and_rust_functions() -> None:
    go = "package a\n\nfunc (c *Cart) Total(p int) int {\n\treturn 1\n}\n"
    rust = "impl Cart {\n    pub fn total(&self) -> i64 {\n        1\n    }\n}\n"
    assert [item.name for item in find_definitions("a.go", go, "go")] == ["Total"]
    assert [item.name for item in find_definitions("a.rs", rust, "rust")] == ["total"]


def test_no_definitions_in_unknown_languages() -> None:
    assert find_definitions("a.txt", "def a(): pass", "") == ()
