"""What the probes conclude from what servers do, and what they keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from chat_server import Answer, ChatServer, refuse, say, send
from fault_server import FaultServer
from fault_server import refuse as refuse_all

from qcode.backends.endpoint_probes import PROBES, EndpointProbes, ProbeResult
from qcode.backends.http import ChatEndpoint
from qcode.protocol.messages import Usage

pytestmark = pytest.mark.anyio

CODE_WORD = "PERIWINKLE"
VLLM = {"id": "m", "owned_by": "vllm", "max_model_len": 40_960}
SEA = say("The sea is wide. It is also deep.", usage=Usage(input_tokens=20, output_tokens=9))
PARIS = ("get_weather", {"city": "Paris"})
TOKYO = ("get_weather", {"city": "Tokyo"})
TOKENS_OF_A_LINE = 20


def cut(num_tokens: int = 30 * TOKENS_OF_A_LINE) -> Answer:
    """An answer that reached its length, to a prompt of 30 lines."""
    usage = {"prompt_tokens": num_tokens, "completion_tokens": 8}
    return send(event("one two"), event("", "length", usage))


def event(content: str, finish: str | None = None, usage: Mapping[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode()


def long(text: str, num_tokens: int = 5_000, cached: int = 0) -> Answer:
    usage = Usage(input_tokens=num_tokens, output_tokens=5, cached_tokens=cached)
    return say(text, usage=usage)


GOOD = {
    "stream": SEA,
    "lengths": cut(),
    "tool": say(calls=[PARIS]),
    "parallel": say(calls=[PARIS, TOKYO]),
    "window": long(CODE_WORD),
    "cache": long(CODE_WORD, cached=4_900),
    "images": say("Red."),
}


async def probed(
    answers: Sequence[Answer],
    *,
    listed: Mapping[str, object] = VLLM,
    routes: Mapping[str, object] | None = None,
    model: str | None = None,
) -> tuple[dict[str, ProbeResult], EndpointProbes, ChatServer]:
    with ChatServer(answers, models=[listed], routes=routes) as server:
        endpoint = ChatEndpoint(server.url)
        try:
            probes = EndpointProbes(endpoint, model, code_word=CODE_WORD)
            results = [result async for result in probes.run()]
        finally:
            await endpoint.aclose()
    assert [result.probe for result in results] == list(PROBES)
    return {result.probe: result for result in results}, probes, server


async def but(**answers: Answer | None) -> tuple[dict[str, ProbeResult], EndpointProbes]:
    """A good server, with these answers instead; None: the probe is not expected to ask."""
    given = {**GOOD, **answers}
    results, probes, server = await probed([answer for answer in given.values() if answer])
    completions = [r for r in server.requests if r.path.endswith("/chat/completions")]
    assert len(completions) == len([answer for answer in given.values() if answer])
    return results, probes


async def test_a_good_server_passes_everything() -> None:
    results, probes, server = await probed(list(GOOD.values()))
    assert {result.verdict for result in results.values()} == {"ok"}
    assert probes.model == "m"
    assert probes.profile.context_window == 40_960
    assert probes.profile.server == "vLLM"
    assert probes.profile.dialect.reasoning_field == ""
    assert "4,900 tokens reused" in results["prefix cache"].text
    bodies = [request.body for request in server.requests if request.body]
    assert bodies[4] == bodies[5]  # the same long prompt twice
    assert bodies[4]["messages"][0]["content"].startswith(f"The code word is {CODE_WORD}.")


async def test_a_refused_key_is_the_only_finding() -> None:
    async with FaultServer(refuse_all(401, "bad key")) as server:
        endpoint = ChatEndpoint(server.url, api_key="sk-very-secret")
        results = [result async for result in EndpointProbes(endpoint, "m").run()]
        await endpoint.aclose()
    assert (results[0].verdict, {result.verdict for result in results[1:]}) == (
        "missing",
        {"skipped"},
    )
    assert "OPENAI_API_KEY" in results[0].fix


async def test_a_server_that_only_lists_models_is_no_chat_server() -> None:
    results, _, _ = await probed([refuse(404, "no route")])
    assert results["stream"].verdict == "missing"
    assert {result.verdict for result in list(results.values())[3:]} == {"skipped"}


async def test_nothing_answering_is_the_only_finding() -> None:
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1")
    probes = EndpointProbes(endpoint, "m")
    results = [result async for result in probes.run()]
    await endpoint.aclose()
    assert [result.probe for result in results] == list(PROBES)
    assert results[0].verdict == "missing"
    assert "nothing answers" in results[0].text
    assert results[0].fix
    assert {result.verdict for result in results[1:]} == {"skipped"}


async def test_a_model_that_is_not_listed_is_noted() -> None:
    results, _, _ = await probed(list(GOOD.values()), model="mine")
    assert results["models"].verdict == "note"
    assert results["models"].fix == "Name one of them with --model: m"


async def test_an_answer_in_one_piece_and_without_usage_is_noted() -> None:
    message = {"choices": [{"message": {"content": "The sea."}, "finish_reason": "stop"}]}
    whole = Answer(parts=(json.dumps(message).encode(),), content_type="application/json")
    results, _ = await but(stream=whole)
    assert (results["stream"].verdict, results["usage"].verdict) == ("note", "note")
    assert "one piece" in results["stream"].text


async def test_a_cut_answer_that_looks_whole_is_noted() -> None:
    usage = {"prompt_tokens": 600, "completion_tokens": 8}
    results, _ = await but(lengths=send(event("one"), event("", "stop", usage)))
    assert results["stop reason"].verdict == "note"


async def test_calls_left_in_the_text_are_found() -> None:
    call = json.dumps({"name": "get_weather", "arguments": {"city": "Paris"}})
    written = say(f"<tool_call>\n{call}\n</tool_call>")
    results, probes = await but(tool=written, parallel=written)
    assert (results["tool call"].verdict, results["call as text"].verdict) == ("note", "ok")
    assert "--jinja" in results["tool call"].fix
    assert not probes.profile.fenced_calls


async def test_calls_in_code_blocks_are_found_and_remembered() -> None:
    call = json.dumps({"name": "get_weather", "arguments": {"city": "Paris"}})
    written = say(f"```json\n{call}\n```")
    results, probes = await but(tool=written, parallel=written)
    assert results["call as text"].verdict == "note"
    assert probes.profile.fenced_calls


async def test_a_model_that_makes_no_call_fails() -> None:
    results, _ = await but(tool=say("It is sunny in Paris."), parallel=say("It is sunny."))
    assert results["tool call"].verdict == "missing"
    assert "It is sunny in Paris." in results["call as text"].text


async def test_a_server_that_refuses_tools_fails() -> None:
    results, _ = await but(tool=refuse(400, "m does not support tools"))
    assert results["tool call"].verdict == "missing"
    assert "does not support tools" in results["tool call"].text
    assert results["call as text"].verdict == "skipped"


async def test_damaged_parallel_calls_are_not_asked_for_again() -> None:
    both = '{"city": "Paris"}{"city": "Tokyo"}'
    delta = {"tool_calls": [{"index": 0, "function": {"name": "get_weather", "arguments": both}}]}
    choice = {"delta": delta, "finish_reason": "tool_calls"}
    merged = send(f"data: {json.dumps({'choices': [choice]})}\n\n")
    results, probes = await but(parallel=merged)
    assert results["parallel calls"].verdict == "note"
    assert probes.profile.dialect.single_calls


async def test_a_window_cut_in_silence_fails() -> None:
    results, probes = await but(window=long("I see no code word.", num_tokens=2_048), cache=None)
    assert results["window"].verdict == "missing"
    assert "2,048 were read" in results["window"].text
    assert probes.profile.context_window == 2_048
    weak, _ = await but(window=long("I see no code word."))
    assert weak["window"].verdict == "ok"  # all was read: the model is weak, not the server


async def test_a_window_is_learned_from_its_refusal() -> None:
    answers = [
        *list(GOOD.values())[:4],
        refuse(400, "Requested tokens (5000) exceed context window of 2048"),
        GOOD["images"],
    ]
    results, probes, _ = await probed(answers, listed={"id": "m"})
    assert results["window"].verdict == "note"
    assert "2,048 tokens" in results["window"].text
    assert results["prefix cache"].verdict == "skipped"
    assert probes.profile.context_window == 2_048


async def test_a_window_nobody_states_is_noted() -> None:
    results, probes, _ = await probed(list(GOOD.values()), listed={"id": "m"})
    assert results["window"].verdict == "note"
    assert "context_window" in results["window"].fix
    assert probes.profile.context_window is None


async def test_a_model_without_eyes_is_no_fault() -> None:
    results, _ = await but(images=refuse(400, "image input is not supported"))
    assert (results["images"].verdict, results["images"].text) == ("ok", "refused: text only")


def thinking(field: str) -> Answer:
    choices: list[dict[str, Any]] = [
        {"delta": {field: "hm"}},
        {"delta": {"content": "The sea."}, "finish_reason": "stop"},
    ]
    return send(*(f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices))


@pytest.mark.parametrize(
    ("again", "reasoning"), [(say("You are welcome."), "return"), (refuse(400, "no"), "drop")]
)
async def test_thinking_is_sent_back_where_it_is_taken(again: Answer, reasoning: str) -> None:
    answers = [thinking("reasoning_content"), again, *list(GOOD.values())[1:]]
    results, probes, server = await probed(answers)
    assert results["reasoning"].verdict == "ok"
    assert probes.profile.dialect.reasoning_field == "reasoning_content"
    assert probes.profile.dialect.reasoning == reasoning
    sent = [request.body for request in server.requests if request.body][1]["messages"][1]
    assert sent["reasoning_content"] == "The sea is wide."


async def test_what_refusals_teach_is_kept() -> None:
    answers = [refuse(400, "Unrecognized argument: stream_options"), *GOOD.values()]
    results, probes, _ = await probed(answers)
    assert results["stream"].verdict == "ok"
    assert probes.profile.dialect.omitted == {"stream_options"}
