"""The bundled engine as a backend, on a tiny random network that writes gibberish."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors

from qcode.backends.local import LocalBackend, strength
from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import AnswerShape, Backend, ChatRequest
from qcode.protocol.chunks import Chunk, Completed, PrefillProgress, TextDelta
from qcode.protocol.errors import ContextOverflow, EngineError
from qcode.protocol.messages import AssistantMessage, TextBlock, ToolCall, UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec

pytestmark = pytest.mark.anyio

OPTIONS = EngineOptions(kv_dtype="float32", num_threads=1)
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=24)
REQUEST = ChatRequest(system="Be brief.", messages=(UserMessage(content="Hi"),), sampling=GREEDY)
CHOICE = 'start: "return " ("alpha" | "beta") ";"'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    return write_safetensors(path, "qwen2", max_position_embeddings=2048)


@pytest.fixture
async def backend(checkpoint: Path) -> AsyncGenerator[LocalBackend, None]:
    backend = LocalBackend(checkpoint, name="tiny", options=OPTIONS)
    yield backend
    await backend.aclose()


async def collect(backend: Backend, request: ChatRequest) -> list[Chunk]:
    async with aclosing(backend.stream(request)) as chunks:
        return [chunk async for chunk in chunks]


async def complete(backend: Backend, request: ChatRequest) -> Completed:
    chunks = await collect(backend, request)
    completed = chunks[-1]
    assert isinstance(completed, Completed)
    deltas = [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)]
    assert "".join(deltas) == completed.message.text
    return completed


def shaped(**shape: object) -> ChatRequest:
    return replace(REQUEST, answer=AnswerShape(**shape))  # type: ignore[arg-type]


async def test_the_model_is_described_without_loading_it(backend: LocalBackend) -> None:
    assert backend.model.name == "tiny"
    assert backend.model.context_window == 2048
    assert backend.model.strength == "small"
    assert backend.model.constrains
    assert backend.model.local


async def test_a_stream_is_progress_then_deltas_then_one_message(backend: LocalBackend) -> None:
    chunks = await collect(backend, REQUEST)

    *body, completed = chunks
    assert isinstance(completed, Completed)
    progress = [chunk for chunk in body if isinstance(chunk, PrefillProgress)]
    assert progress[-1].done_tokens == progress[-1].total_tokens
    assert body[: len(progress)] == progress
    text = "".join(chunk.text for chunk in body if isinstance(chunk, TextDelta))
    message = completed.message
    assert message == AssistantMessage(
        blocks=(TextBlock(text=text),),
        stop_reason="max_tokens",
        model="tiny",
        usage=message.usage,
        raw=text,
    )
    assert message.usage.input_tokens == progress[-1].total_tokens
    assert message.usage.output_tokens == 24


async def test_the_next_turn_reuses_prompt_and_answer(backend: LocalBackend) -> None:
    # What a grammar forces at the end of an answer is never computed: here it forces nothing there.
    grammar = 'start: "return " ("alpha" | "beta") ("!" | "?")'
    first = (await complete(backend, shaped(grammar=grammar))).message
    follow_up = replace(
        REQUEST, messages=(*REQUEST.messages, first, UserMessage(content="And then?"))
    )

    second = (await complete(backend, follow_up)).message

    # All but the answer's last token, which was never computed.
    reused = first.usage.input_tokens + first.usage.output_tokens - 1
    assert second.usage.cached_tokens == reused


async def test_a_grammar_pins_the_answer(backend: LocalBackend) -> None:
    message = (await complete(backend, shaped(grammar=CHOICE))).message

    assert message.text in {"return alpha;", "return beta;"}
    assert message.stop_reason == "end"


async def test_a_wrong_grammar_is_an_error_with_a_reason(backend: LocalBackend) -> None:
    with pytest.raises(EngineError, match="nowhere"):
        await collect(backend, shaped(grammar="start: nowhere"))


async def test_an_answer_can_be_branched_at_a_traced_token(backend: LocalBackend) -> None:
    grammar = 'start: "x" ("a" | "b") "!"'
    original = await complete(backend, shaped(grammar=grammar, trace=True))
    assert "".join(choice.text for choice in original.trace) == original.message.text
    first, unsure, _ = original.trace

    branch = await complete(
        backend,
        shaped(grammar=grammar, trace=True, prefix_ids=(first.token_id, unsure.runner_up_id)),
    )

    assert branch.message.text == f"x{unsure.runner_up_text}!"
    assert {original.message.text, branch.message.text} == {"xa!", "xb!"}
    assert [choice.text for choice in branch.trace] == ["!"]
    assert branch.message.usage.output_tokens == 1


async def test_continuing_an_answer_gives_the_whole_answer(backend: LocalBackend) -> None:
    whole = await complete(backend, shaped(trace=True))
    ids = tuple(choice.token_id for choice in whole.trace)

    for cut in (1, 10, len(ids)):
        continued = await complete(backend, shaped(trace=True, prefix_ids=ids[:cut]))
        assert continued.message.raw == whole.message.raw
        for choice, expected in zip(continued.trace, whole.trace[cut:], strict=True):
            assert choice.token_id == expected.token_id
            assert choice.probability == pytest.approx(expected.probability, rel=1e-4)


async def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(backend: LocalBackend) -> None:
    whole = (await complete(backend, REQUEST)).message.text
    for stop in (whole[7:10], whole[3:4], whole):
        request = replace(REQUEST, sampling=replace(GREEDY, stop=("never", stop)))
        message = (await complete(backend, request)).message

        assert message.text == whole[: whole.find(stop)]
        assert message.raw == message.text
        assert message.stop_reason == "end"


async def test_a_stop_string_may_begin_in_the_prefix(backend: LocalBackend) -> None:
    whole = await complete(backend, shaped(trace=True))
    ids = tuple(choice.token_id for choice in whole.trace)
    text = whole.message.text
    border = len("".join(choice.text for choice in whole.trace[:10]))
    stop = text[border - 1 : border + 2]
    request = replace(
        shaped(prefix_ids=ids[:10]), sampling=replace(GREEDY, stop=(stop,), max_tokens=24)
    )

    assert (await complete(backend, request)).message.text == text[: text.find(stop)]


async def completion(
    backend: LocalBackend, prefix: str, suffix: str | None, sampling: SamplingParams
) -> Completed:
    async with aclosing(backend.complete(prefix, suffix, sampling)) as chunks:
        *body, completed = [chunk async for chunk in chunks]
    assert isinstance(completed, Completed)
    deltas = [chunk.text for chunk in body if isinstance(chunk, TextDelta)]
    assert "".join(deltas) == completed.message.text
    return completed


async def test_plain_text_is_continued_without_a_conversation(backend: LocalBackend) -> None:
    engine = await backend.start().engine()
    prompt = engine.loaded.tokenizer.encode("for index")
    tokens: list[int] = []
    async with aclosing(backend.start().generate(prompt, GREEDY)) as outputs:
        async for output in outputs:
            tokens += output.token_ids

    completed = await completion(backend, "for index", None, GREEDY)

    assert completed.message.text == engine.loaded.tokenizer.decode(tokens)
    assert completed.message.usage.input_tokens == len(prompt)
    assert completed.message.stop_reason == "max_tokens"


async def test_a_stop_string_ends_plain_text_too(backend: LocalBackend) -> None:
    whole = (await completion(backend, "for index", None, GREEDY)).message.text
    stop = whole[6:9]

    stopped = await completion(backend, "for index", None, replace(GREEDY, stop=(stop,)))

    assert stopped.message.text == whole[: whole.find(stop)]
    assert stopped.message.stop_reason == "end"


async def test_a_model_without_the_markup_cannot_fill_in_the_middle(backend: LocalBackend) -> None:
    with pytest.raises(EngineError, match="fim_prefix"):
        await completion(backend, "def f():", "return x", GREEDY)


async def test_logprobs_come_as_the_trace(backend: LocalBackend) -> None:
    traced = await complete(backend, shaped(trace=True))

    asked = await complete(backend, replace(REQUEST, sampling=replace(GREEDY, logprobs=0)))

    assert [item.token_id for item in asked.trace] == [item.token_id for item in traced.trace]
    for item, expected in zip(asked.trace, traced.trace, strict=True):
        assert item.probability == pytest.approx(expected.probability, rel=1e-4)
        assert item.runner_up_text == expected.runner_up_text


async def test_offered_tools_are_called_as_their_schemas_say(backend: LocalBackend) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["alpha", "beta"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    tool = ToolSpec(name="choose", description="Choose one.", schema=schema)
    engine = await backend.start().engine()
    opening = engine.loaded.tokenizer.special_id("<tool_call>")
    assert opening is not None
    request = replace(
        REQUEST,
        tools=(tool,),
        answer=AnswerShape(prefix_ids=(opening,)),
        sampling=replace(GREEDY, max_tokens=60),
    )

    message = (await collect(backend, request))[-1].message

    assert isinstance(message.blocks[0], ToolCall)
    assert message.blocks[0].name == "choose"
    assert message.blocks[0].arguments in {'{"name": "alpha"}', '{"name": "beta"}'}


async def test_two_streams_at_once_are_each_alone(backend: LocalBackend) -> None:
    other = replace(REQUEST, messages=(UserMessage(content="Something else entirely"),))
    alone = [(await complete(backend, request)).message.text for request in (REQUEST, other)]

    async with (
        aclosing(backend.stream(REQUEST)) as first,
        aclosing(backend.stream(other)) as second,
    ):
        await anext(first)
        texts = []
        for chunks in (second, first):
            *_, completed = [chunk async for chunk in chunks]
            assert isinstance(completed, Completed)
            texts.append(completed.message.text)

    assert texts == [alone[1], alone[0]]


async def test_closing_a_stream_early_frees_its_blocks(backend: LocalBackend) -> None:
    endless = replace(REQUEST, sampling=replace(GREEDY, max_tokens=None))
    async with aclosing(backend.stream(endless)) as chunks:
        await anext(chunks)
    engine = await backend.start().engine()

    await complete(backend, REQUEST)

    assert engine.num_available_blocks == engine.num_blocks


async def test_a_request_beyond_the_window_says_so(backend: LocalBackend) -> None:
    long = replace(REQUEST, messages=(UserMessage(content="word " * 3000),))

    with pytest.raises(ContextOverflow, match="2048"):
        await collect(backend, long)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5-coder-3b-instruct", "small"),
        ("qwen3-4b", "small"),
        ("qwen2.5-coder-7b-instruct", "large"),
        ("qwen3-coder-30b-a3b-instruct", "large"),
        ("qwen3-coder-next", "large"),
    ],
)
def test_strength_is_told_by_the_size_of_the_network(name: str, expected: str) -> None:
    """Few experts at a time do not make a small model of a large one."""
    published = Path(__file__).parent.parent / "published_configs" / f"{name}.json"
    config = json.loads(published.read_text())["config"]
    assert strength(config_from_json(config, {}, name)) == expected
