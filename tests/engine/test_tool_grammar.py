"""Calls written under the grammar of the offered tools, walked at random and read back."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from random_checkpoint import write_tokenizer_json

from qcode.engine.chat.call_opening import CallOpening, OpeningWatch
from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.qwen3_coder import Qwen3CoderTemplate
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.checkpoint.vocabulary import vocabulary_from_directory
from qcode.engine.grammar import GrammarCompiler, ToolCallConstraint
from qcode.engine.models.loading import load_tokenizer
from qcode.engine.tokenizer import Tokenizer
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.messages import ToolCall
from qcode.protocol.tools import ToolSpec

FORMS: tuple[CallFormat, ...] = ("json", "tags")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Place(Strict):
    line: int = Field(ge=0, le=9_999)
    tags: list[str] = []


class Nothing(Strict):
    pass


class Write(Strict):
    path: str
    content: str
    append: bool = False
    ratio: float = Field(0.5, ge=0, le=1)
    mode: Literal["w", "a b", "x\ny"] = "w"
    at: Place | None = None


class Find(Strict):
    pattern: str = Field(min_length=1)
    limit: int = Field(10, ge=1, le=500)
    places: list[Place] = []


MODELS: dict[str, type[Strict]] = {"stop": Nothing, "write_file": Write, "find": Find}
TOOLS = [
    ToolSpec(name=name, description="", schema=model.model_json_schema())
    for name, model in MODELS.items()
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer_json(directory / "tokenizer.json")
    vocabulary = vocabulary_from_directory(directory)
    ends = (vocabulary.special_tokens[text] for text in ("<|im_end|>", "<|endoftext|>"))
    return Tokenizer(vocabulary, eos_ids=frozenset(ends))


def compiler_for(tokenizer: Tokenizer, num_tokens: int) -> GrammarCompiler:
    return GrammarCompiler(
        tokenizer.encoding, num_tokens=num_tokens, eos_ids=sorted(tokenizer.eos_ids)
    )


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return compiler_for(tokenizer, 400)


def constraint_of(
    compiler: GrammarCompiler, form: CallFormat, tools: Sequence[ToolSpec] = TOOLS
) -> ToolCallConstraint:
    constraint = compiler.tool_calls([(tool.name, tool.schema) for tool in tools], form)
    assert constraint is not None
    return constraint


def read_back(form: CallFormat, answer: str) -> list[ToolCall]:
    template = HermesTemplate() if form == "json" else Qwen3CoderTemplate()
    parser = template.parser(TOOLS, constrained=True)
    parser.feed(answer)
    return [block for block in parser.finish() if isinstance(block, ToolCall)]


def walk(
    constraint: ToolCallConstraint, tokenizer: Tokenizer, rng: random.Random
) -> tuple[list[int], bool]:
    """One call at random: any allowed token, later more and more those that lead to an end."""
    opening = tokenizer.special_id("<tool_call>")
    assert opening is not None
    return go_on(constraint, tokenizer, [opening], rng)


def go_on(
    constraint: ToolCallConstraint, tokenizer: Tokenizer, begun: list[int], rng: random.Random
) -> tuple[list[int], bool]:
    """The same for a call that has begun; `begun` are free."""
    for token in begun:
        assert constraint.allowed() is None
        constraint.consume(token)
    ids, written = list(begun), b""
    while (mask := constraint.allowed()) is not None and len(ids) < 500:
        allowed = mask.nonzero().flatten().tolist()
        assert allowed, tokenizer.decode(ids)
        assert not tokenizer.eos_ids & set(allowed)
        token = rng.choice(allowed)
        if rng.random() < len(ids) / 40:
            leading = [i for i in allowed if not tokenizer.token_bytes(i).strip(IN_ENDS)]
            token = max(
                leading or [token], key=lambda i: nearness(written + tokenizer.token_bytes(i))
            )
        constraint.consume(token)
        ids.append(token)
        written = (written + tokenizer.token_bytes(token))[-32:]
    return ids, constraint.allowed() is None


IN_ENDS = b'\n</parameterfunction>"}]'


def nearness(written: bytes) -> int:
    """How much of the end of a string, a parameter or a call stands at the end already."""
    end = b"\n</parameter>"
    in_value = next((n for n in range(len(end), 0, -1) if written.endswith(end[:n])), 0)
    in_call = any(written.endswith(b"</function>\n"[:n]) for n in range(2, 13))
    return 2 * in_value + (in_call or written[-1:] in (b'"', b"}", b"]"))


def assert_valid(calls: list[ToolCall], text: str) -> None:
    assert len(calls) == 1, text
    MODELS[calls[0].name].model_validate_json(calls[0].arguments)


@pytest.mark.parametrize("form", FORMS)
def test_whatever_is_allowed_is_a_valid_call(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat
) -> None:
    ended = 0
    for seed in range(55):
        ids, whole = walk(constraint_of(compiler, form), tokenizer, random.Random(seed))
        if whole:
            ended += 1
            text = tokenizer.decode(ids)
            assert_valid(read_back(form, text), text)
    assert ended > 40


@pytest.mark.weights
@pytest.mark.parametrize("form", FORMS)
def test_the_same_with_a_real_vocabulary(form: CallFormat) -> None:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    checkpoint = open_checkpoint(path)
    tokenizer = load_tokenizer(checkpoint)
    compiler = compiler_for(tokenizer, checkpoint.config.vocab_size)
    ended = 0
    for seed in range(4):
        ids, whole = walk(constraint_of(compiler, form), tokenizer, random.Random(seed))
        if whole:
            ended += 1
            text = tokenizer.decode(ids)
            assert_valid(read_back(form, text), text)
    assert ended > 1


def xml(name: str, values: dict[str, object]) -> str:
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }
    inside = "".join(f"<parameter={k}>\n{text}\n</parameter>\n" for k, text in texts.items())
    return f"<tool_call>\n<function={name}>\n{inside}</function>\n</tool_call>"


def hermes(name: str, values: dict[str, object]) -> str:
    call = {"name": name, "arguments": values}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def accepted(constraint: ToolCallConstraint, tokenizer: Tokenizer, call: str) -> bool:
    """Whether a call's natural tokens pass, and end it."""
    inner = call.removeprefix("<tool_call>").removesuffix("</tool_call>")
    opening, closing = (tokenizer.special_id(tag) for tag in ("<tool_call>", "</tool_call>"))
    assert opening is not None
    assert closing is not None
    for token in [opening, *tokenizer.encode(inner), closing]:
        mask = constraint.allowed()
        if mask is not None and not mask[token]:
            return False
        constraint.consume(token)
    return constraint.allowed() is None


# In JSON llguidance wants DEL escaped, which JSON itself does not.
TEXT = st.text(
    st.sampled_from("ab \n\t<>/{}\"'\\é=")
    | st.characters(codec="utf-8", exclude_characters="\x7f"),
    max_size=20,
)
# The parameters of a call come in any order, the fields of an object in one in that of its schema.
PLACES = st.fixed_dictionaries(
    {"line": st.integers(0, 9_999)}, optional={"tags": st.lists(TEXT, max_size=3)}
).map(lambda place: dict(sorted(place.items())))
ARGUMENTS: dict[str, st.SearchStrategy[dict[str, object]]] = {
    "stop": st.just({}),
    "write_file": st.fixed_dictionaries(
        {"path": TEXT, "content": TEXT},
        optional={
            "append": st.booleans(),
            "ratio": st.sampled_from([0, 1, 0.25, 0.125]),
            "mode": st.sampled_from(["w", "a b", "x\ny"]),
            "at": st.none() | PLACES,
        },
    ),
    "find": st.fixed_dictionaries(
        {"pattern": TEXT.filter(lambda text: text.strip("\n<") != "")},
        optional={"limit": st.integers(1, 500), "places": st.lists(PLACES, max_size=2)},
    ),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(MODELS)))
@pytest.mark.parametrize("form", FORMS)
def test_every_valid_call_is_accepted_in_any_order(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    form: CallFormat,
    data: st.DataObject,
    name: str,
) -> None:
    values = data.draw(ARGUMENTS[name])
    ordered = dict(data.draw(st.permutations(list(values.items()))))
    call = (hermes if form == "json" else xml)(name, ordered)
    if form == "tags" and any(f"\n{value}\n".startswith("\n</p") for value in values.values()):
        return
    assert accepted(constraint_of(compiler, form), tokenizer, call), call
    (read,) = read_back(form, call)
    assert (read.name, json.loads(read.arguments)) == (name, values)


WRONG: list[tuple[str, dict[str, object]]] = [
    ("launch", {}),
    ("stop", {"now": True}),
    ("write_file", {"path": "a"}),
    ("write_file", {"path": "a", "content": "b", "append": "perhaps"}),
    ("write_file", {"path": "a", "content": "b", "mode": "q"}),
    ("write_file", {"path": "a", "content": "b", "colour": "red"}),
    ("find", {"pattern": "x", "limit": "many"}),
    ("find", {"pattern": "x", "limit": 501}),
    ("find", {"pattern": "x", "limit": 1.5}),
    ("find", {"pattern": ""}),
    ("find", {"pattern": "x", "places": [{"line": -1}]}),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "values"), WRONG)
def test_no_invalid_call_is_accepted(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    form: CallFormat,
    name: str,
    values: dict[str, object],
) -> None:
    with pytest.raises((ValidationError, KeyError)):
        MODELS[name].model_validate(values)
    call = (hermes if form == "json" else xml)(name, values)
    assert not accepted(constraint_of(compiler, form), tokenizer, call)


@pytest.mark.parametrize("form", FORMS)
def test_no_parameter_comes_twice(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat
) -> None:
    call = (hermes if form == "json" else xml)("find", {"pattern": "x", "limit": 3})
    once = '"limit": 3' if form == "json" else "<parameter=limit>\n3\n</parameter>\n"
    again = f"{once}, {once}" if form == "json" else once + once
    assert not accepted(constraint_of(compiler, form), tokenizer, call.replace(once, again))


@pytest.mark.parametrize("form", FORMS)
def test_text_is_free_before_between_and_after_calls(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat
) -> None:
    constraint = constraint_of(compiler, form)
    call = (hermes if form == "json" else xml)("stop", {})
    for text in ("I will {x}: <function=no>", "\n\nand\n", "Done."):
        for token in tokenizer.encode(text):
            assert constraint.allowed() is None
            constraint.consume(token)
        assert accepted(constraint, tokenizer, call)
    assert not constraint.is_complete


@pytest.mark.parametrize("form", FORMS)
def test_a_value_may_hold_the_markup_of_calls(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat
) -> None:
    """What the lenient reading of damaged calls would take for tags."""
    for text in (
        "<parameter=content>\nx",
        "\n<parameter=at>\ny",
        "\n</function>\nz",
        "a</parameter>",
    ):
        values: dict[str, object] = {"path": text, "content": text}
        call = (hermes if form == "json" else xml)("write_file", values)
        assert accepted(constraint_of(compiler, form), tokenizer, call), text
        (read,) = read_back(form, call)
        assert json.loads(read.arguments) == values


@pytest.mark.parametrize("form", FORMS)
def test_odd_schemas_leave_values_free(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat
) -> None:
    odd = [
        ToolSpec(name="any", description="", schema={}),
        ToolSpec(name="odd", description="", schema={"properties": {"x": {"type": "no such"}}}),
        ToolSpec(name="unlisted", description="", schema={"required": ["y"]}),
    ]
    render = hermes if form == "json" else xml
    for call in (
        render("any", {"a": "b"}),
        render("odd", {"x": "1"}),
        render("unlisted", {"y": "1"}),
    ):
        assert accepted(constraint_of(compiler, form, odd), tokenizer, call), call


def test_a_grammar_is_made_once_for_a_set_of_tools(compiler: GrammarCompiler) -> None:
    tools = [(tool.name, tool.schema) for tool in TOOLS]
    start = compiler._call_start(tools, "tags")
    assert compiler._call_start(list(tools), "tags") is start
    assert compiler._call_start(tools, "json") is not start
    for number in range(40):
        compiler.tool_calls([(f"tool_{number}", {})], "json")
    assert len(compiler._call_starts) <= 16


OPENINGS = [
    "<function=",
    "I shall look.\n\n<function=",
    "Look:\n  < function =",
    "<tool _call>\n<tool_call>\n<function=",
    '{"name": "find", "arguments"',
    '{"name":"write_file","arguments"',
    '{\n  "name": "stop",\n  "parameters"',
    'So:\n```\n{"name": 1}\n```\n{"name": "find", "arguments"',
    '[{"name": "find", "arguments"',
    '<tool_call>{"name": "find", "arguments"',
    'See {"name": "find"} below.\n{"name": "write_file", "arguments"',
    '<think>\n<function=find>\n{"name": "find", "arguments": 3}\n</think>\n\n<function=',
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opening", OPENINGS)
def test_a_call_without_its_tag_is_valid_too(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat, opening: str
) -> None:
    """The tag is left out or spelled in ordinary tokens; in either form, whatever the model's."""
    ended = 0
    for seed in range(10):
        begun = tokenizer.encode(opening)
        ids, whole = go_on(constraint_of(compiler, form), tokenizer, begun, random.Random(seed))
        if whole:
            ended += 1
            text = tokenizer.decode(ids) + ("]" if "[" in opening else "")
            assert_valid(read_back(form, text), text)
    assert ended > 4


FREE = [
    'Write `<function=find>` and {"name": "find", "arguments": {}} in a line.',
    "```xml\n<function=find>\n<parameter=x>\n```",
    '~~~\n{"name": "find", "arguments": {"a": 1}}\n~~~',
    '```json\n{"name": "find", "arguments": {"a": 1}}',
    "```\n``\n```js\n<function=find>",
    '{"name": "find", "version": "1.0"}',
    '{"name": "other", "arguments": {"a": 1}}',
    '{"arguments": {"pattern": 1}, "name": "find"}',
    "<functions=3>\n<func=a>\n> <function=find>\n- <function=find>",
    '<think>\n<function=find>\n<parameter=a>\n</parameter>\n{"name": "find", "arguments": 1}',
    "`<function=find>`\n",
    "The tag <tool_ca" + "ll> opens it.",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", FREE)
def test_prose_quotes_fences_and_thinking_stay_free(
    compiler: GrammarCompiler, tokenizer: Tokenizer, form: CallFormat, text: str
) -> None:
    constraint = constraint_of(compiler, form)
    for token in tokenizer.encode(text):
        constraint.consume(token)
        assert constraint.allowed() is None


def test_thinking_that_the_prompt_opened_stays_free(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.tool_calls([(t.name, t.schema) for t in TOOLS], "json", in_reasoning=True)
    assert constraint is not None
    for token in tokenizer.encode("Should I?\n<function=find>\n<parameter=no>\n</think>\n\n"):
        constraint.consume(token)
        assert constraint.allowed() is None
    for token in tokenizer.encode("<function="):
        assert constraint.allowed() is None
        constraint.consume(token)
    assert constraint.allowed() is not None


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(MODELS)), form=st.sampled_from(FORMS))
def test_every_valid_call_is_accepted_without_its_tag(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    data: st.DataObject,
    name: str,
    form: CallFormat,
) -> None:
    """Also several in a row, and they are read as they were written."""
    values = data.draw(ARGUMENTS[name])
    if form == "tags" and any(f"\n{value}\n".startswith("\n</p") for value in values.values()):
        return
    call = (hermes if form == "json" else xml)(name, values)
    bare = call.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    answer = f"First:\n{bare}\n{bare}\nDone."
    constraint = constraint_of(compiler, data.draw(st.sampled_from(FORMS)))
    num_masks = 0
    for token in tokenizer.encode(answer):
        mask = constraint.allowed()
        num_masks += mask is not None
        assert mask is None or mask[token], answer
        constraint.consume(token)
    assert constraint.allowed() is None
    assert num_masks > 0
    calls = read_back(form, answer)
    assert [(read.name, json.loads(read.arguments)) for read in calls] == [(name, values)] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "values"), WRONG)
def test_no_invalid_call_is_accepted_without_its_tag(
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    form: CallFormat,
    name: str,
    values: dict[str, object],
) -> None:
    call = (hermes if form == "json" else xml)(name, values)
    bare = call.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    constraint = constraint_of(compiler, form)
    for token in tokenizer.encode(bare):
        mask = constraint.allowed()
        if mask is not None and not mask[token]:
            return
        constraint.consume(token)
    assert form == "json"  # JSON that names no tool is text
    assert read_back(form, bare) == []


def test_what_a_token_wrote_past_the_opening_is_held_to_the_grammar(
    tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    """Tokens end where they like; what departs from the grammar in one of them stays free."""
    watch = OpeningWatch(["find"])
    assert watch.feed(b"Look.\n\n") is None
    opening = watch.feed(b"<function=fi")
    assert opening == CallOpening(form="tags", written=b"<function=fi")
    assert compiler._bare_call([("find", {})], opening) is not None
    other = CallOpening(form="tags", written=b"<function=other")
    assert compiler._bare_call([("find", {})], other) is None
    half = CallOpening(form="json", written='{"name": "find", "arguments": {"é'.encode()[:-1])
    assert compiler._bare_call([("find", {})], half) is None
