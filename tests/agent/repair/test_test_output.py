"""Reading what test runners print; the samples are real output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.repair.failure import MAX_TEXT, Frame, shorten
from qcode.agent.repair.other_output import parse_generic, parse_node
from qcode.agent.repair.python_output import parse_pytest, parse_unittest
from qcode.agent.repair.runners import runner_of

PYTEST_SHORT = """\
..FF                                                                     [100%]
=================================== FAILURES ===================================
________________________________ test_schedule _________________________________
tests/test_retry.py:13: in test_schedule
    assert schedule() == [0.0, 1.0, 2.0, 4.0, 8.0]
E   assert [0.0, 1.0, 2.0, 3.0, 3.0] == [0.0, 1.0, 2.0, 4.0, 8.0]
E
E     At index 3 diff: 3.0 != 4.0
_____________________________ TestWaits.test_int[many] _____________________________
tests/test_retry.py:20: in test_int
    get_int({"port": "many"}, "port")
retry.py:24: in get_int
    return int(settings[key])
E   ValueError: invalid literal for int() with base 10: 'many'
----------------------------- Captured stdout call -----------------------------
wrong.py:1: in nothing
=========================== short test summary info ============================
FAILED tests/test_retry.py::test_schedule - assert [0.0, 1.0, 2.0, 3.0, 3.0] ...
FAILED tests/test_retry.py::TestWaits::test_int[many] - ValueError: invalid ...
2 failed, 2 passed in 0.77s
"""

PYTEST_LONG = """\
=================================== FAILURES ===================================
______________________________ Cart.test_discount ______________________________

    def test_discount(self):
        cart = filled()
>       assert cart.total(discount_percent=10) == 18.00
E       assert 22.0 == 18.0
E        +  where 22.0 = total(discount_percent=10)

test_cart.py:20: AssertionError
=========================== short test summary info ============================
FAILED test_cart.py::Cart::test_discount - assert 22.0 == 18.0
1 failed in 0.03s
"""

PYTEST_COLLECTION = """\
==================================== ERRORS ====================================
_____________________ ERROR collecting tests/test_shop.py ______________________
ImportError while importing test module '/home/ada/shop/tests/test_shop.py'.
Hint: make sure your test modules/packages have valid Python names.
Traceback:
tests/test_shop.py:1: in <module>
    from shop import total
E   ImportError: cannot import name 'total' from 'shop' (/home/ada/shop/shop.py)
=========================== short test summary info ============================
ERROR tests/test_shop.py
!!!!!!!!!!!!!!!!!!!! Interrupted: 1 error during collection !!!!!!!!!!!!!!!!!!!!
1 error in 0.09s
"""

UNITTEST = """\
E.F
======================================================================
ERROR: test_overdraft (test_account.AccountTest.test_overdraft)
The balance may become negative.
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/home/ada/bank/test_account.py", line 15, in test_overdraft
    self.account.withdraw(130)
  File "/home/ada/bank/account.py", line 26, in withdraw
    raise InsufficientFunds(f"{self.owner} cannot withdraw {amount}")
    ^^^^^^^^^^^^^^^^^^^^^^^^^
account.InsufficientFunds: Ada cannot withdraw 130

======================================================================
FAIL: test_owner (test_account.AccountTest)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/home/ada/bank/test_account.py", line 21, in test_owner
    self.assertEqual(account.owner, "Ada")
  File "/usr/lib/python3.11/unittest/case.py", line 873, in assertEqual
    assertion_func(first, second, msg=msg)
AssertionError: 'Ben' != 'Ada'
- Ben
+ Ada

----------------------------------------------------------------------
Ran 3 tests in 0.001s

FAILED (failures=1, errors=1)
"""

NODE_TAP = """\
TAP version 13
# Subtest: lower case
ok 1 - lower case
# Subtest: one separator
not ok 2 - one separator
  ---
  duration_ms: 1.699802
  location: '/home/ada/slug/test/slug.test.js:9:1'
  failureType: 'testCodeFailure'
  error: |-
    Expected values to be strictly equal:
    + 'hello--big-world'
    - 'hello-big-world'
  code: 'ERR_ASSERTION'
  stack: |-
    slugify (file:///home/ada/slug/slug.js:7:3)
    TestContext.<anonymous> (file:///home/ada/slug/test/slug.test.js:10:10)
    Test.runInAsyncScope (node:async_hooks:206:9)
    at node:internal/main/test_runner:1:1
  ...
# Subtest: short
ok 3 - short
1..3
"""

NODE_SPEC = """\
✔ lower case (0.5ms)
✖ one separator (1.1ms)
ℹ tests 2
✖ failing tests:

test at test/slug.test.js:9:1
✖ one separator (1.1ms)
  AssertionError [ERR_ASSERTION]: Expected values to be strictly equal:
  + actual - expected
  + 'hello--big-world'
  - 'hello-big-world'
      at TestContext.<anonymous> (file:///home/ada/slug/test/slug.test.js:10:10)
"""


def test_pytest_short_tracebacks() -> None:
    report = parse_pytest(PYTEST_SHORT)
    assert report.failing == {
        "tests/test_retry.py::test_schedule",
        "tests/test_retry.py::TestWaits::test_int[many]",
    }
    first, second = report.failures
    assert first.test == "tests/test_retry.py::test_schedule"
    assert first.exception == "AssertionError"
    assert "assert [0.0, 1.0, 2.0, 3.0, 3.0] == [0.0, 1.0, 2.0, 4.0, 8.0]" in first.text
    assert second.test == "tests/test_retry.py::TestWaits::test_int[many]"
    assert second.function == "test_int"
    assert second.exception == "ValueError"
    assert second.frames == (
        Frame(path="tests/test_retry.py", line=20, function="test_int"),
        Frame(path="retry.py", line=24, function="get_int"),
    )


def test_pytest_long_tracebacks() -> None:
    (failure,) = parse_pytest(PYTEST_LONG).failures
    assert failure.test == "test_cart.py::Cart::test_discount"
    assert failure.function == "test_discount"
    assert "assert cart.total(discount_percent=10) == 18.00" in failure.text
    assert [(frame.path, frame.line) for frame in failure.frames] == [("test_cart.py", 20)]


def test_pytest_collection_error() -> None:
    report = parse_pytest(PYTEST_COLLECTION)
    (failure,) = report.failures
    assert failure.test == "tests/test_shop.py"
    assert failure.function == ""
    assert failure.exception == "ImportError"
    assert "cannot import name 'total'" in failure.text


def test_unittest() -> None:
    report = parse_unittest(UNITTEST)
    assert report.failing == {
        "test_account.AccountTest.test_overdraft",
        "test_account.AccountTest.test_owner",
    }
    error, failure = report.failures
    assert error.exception == "InsufficientFunds"
    assert error.frames[-1] == Frame(path="/home/ada/bank/account.py", line=26, function="withdraw")
    assert "^^^" not in error.text
    assert failure.text.endswith("AssertionError: 'Ben' != 'Ada'\n- Ben\n+ Ada")
    assert "unittest/case.py" not in failure.text
    assert len(failure.frames) == 1


def test_node_reporters() -> None:
    for output in (NODE_TAP, NODE_SPEC):
        (failure,) = parse_node(output).failures
        assert failure.test == "one separator"
        assert "hello--big-world" in failure.text
        assert failure.frames[0].path.endswith("test/slug.test.js")
    tap = parse_node(NODE_TAP).failures[0]
    assert tap.frames[-1] == Frame(path="file:///home/ada/slug/slug.js", line=7, function="slugify")


def test_a_program_that_crashes() -> None:
    output = (
        "working\nTraceback (most recent call last):\n"
        "  File \"job.py\", line 3, in <module>\n    main()\nKeyError: 'x'\n"
    )
    (failure,) = parse_generic(output).failures
    assert failure.exception == "KeyError"
    assert failure.frames == (Frame(path="job.py", line=3, function="<module>"),)


def test_a_compiler_error_names_its_place() -> None:
    (failure,) = parse_generic("building\nmain.go:12:4: undefined: totl\n").failures
    assert failure.frames == (Frame(path="main.go", line=12),)
    assert "undefined: totl" in failure.text


def test_colours_are_ignored() -> None:
    coloured = PYTEST_SHORT.replace("E  ", "\x1b[31mE  ").replace("FAILED", "\x1b[31mFAILED\x1b[0m")
    report = runner_of("pytest").report(coloured)
    assert len(report.failures) == 2
    assert "tests/test_retry.py::test_schedule" in report.failing


@given(st.text(alphabet="E>_= :./[]'\n\x1b-ab1", max_size=400))
def test_no_output_breaks_a_parser(output: str) -> None:
    for command in ("pytest", "python -m unittest", "node --test", "make test"):
        for failure in runner_of(command).report(output).failures:
            assert len(failure.text) <= MAX_TEXT


@given(st.lists(st.text(max_size=300), max_size=40), st.integers(min_value=20, max_value=700))
def test_shortened_text_keeps_its_limit_and_its_ends(lines: list[str], limit: int) -> None:
    lines = [line.replace("\n", " ").replace("\r", " ") for line in lines]
    text = shorten(lines, limit)
    assert len(text) <= limit
    whole = [line[:200].rstrip() for line in lines if line.strip()]
    if len("\n".join(whole)) <= limit:
        assert text == "\n".join(whole)
