"""How each server says that a request does not fit, and what else could be mistaken for it."""

from __future__ import annotations

import pytest

from qcode.protocol.errors import ContextOverflow
from qcode.wire.openai_errors import error_from_payload, stated_window

OVERFLOWS = {
    "OpenAI": (
        400,
        {
            "message": "This model's maximum context length is 8192 tokens. However, your messages "
            "resulted in 9013 tokens. Please reduce the length of the messages.",
            "code": "context_length_exceeded",
        },
        8192,
    ),
    "vLLM": (
        400,
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
        "in the messages, Please reduce the length of the messages.",
        4096,
    ),
    "vLLM, decoder": (
        400,
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        4096,
    ),
    "vLLM, input": (
        400,
        "Input length (5000) exceeds model's maximum context length (4096).",
        4096,
    ),
    "vLLM, answer": (
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context "
        "length is 8192 tokens and your request has 100 input tokens",
        8192,
    ),
    "SGLang": (
        400,
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        4096,
    ),
    "SGLang, sum": (
        400,
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You "
        "requested a total of 5000 tokens",
        4096,
    ),
    "llama.cpp": (
        400,
        {
            "code": 400,
            "message": "the request exceeds the available context size (4096 tokens), try "
            "increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5000,
            "n_ctx": 4096,
        },
        4096,
    ),
    "llama.cpp, by its type alone": (
        400,
        {"message": "request too large", "type": "exceed_context_size_error"},
        None,
    ),
    "llama.cpp, in mid-answer": (
        500,
        "context shift is disabled",
        None,
    ),
    "llama-cpp-python": (400, "Requested tokens (5000) exceed context window of 2048", 2048),
    "Ollama": (400, "prompt too long; exceeded max context length by 12 tokens", None),
    "Ollama, runner": (500, "the input length exceeds the context length", None),
    "LM Studio": (
        400,
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is "
        "loaded with context length of only 4096 tokens, which is not enough.",
        4096,
    ),
    "LM Studio, older": (
        400,
        "The number of tokens to keep from the initial prompt is greater than the context length.",
        None,
    ),
    "LM Studio, in mid-answer": (
        None,
        "Reached context length of 4096 tokens with this model, but this model does not "
        "currently support mid-generation context overflow.",
        4096,
    ),
    "OpenRouter": (
        400,
        "This endpoint's maximum context length is 131072 tokens. However, you requested about "
        "140000 tokens",
        131072,
    ),
    "Model Studio": (
        400,
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
        129024,
    ),
    "Together": (
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 "
        "`inputs` tokens and 512 `max_new_tokens`",
        8193,
    ),
    "TGI": (422, "Input validation error: `inputs` must have less than 4096 tokens.", 4096),
    "Fireworks": (
        400,
        "The prompt is too long: 140000, model maximum context length: 131071",
        131071,
    ),
    "a gateway": (413, "prompt is too long: 210000 tokens > 200000 maximum", None),
}


@pytest.mark.parametrize("server", OVERFLOWS)
def test_a_request_that_does_not_fit_is_recognised(server: str) -> None:
    status, said, window = OVERFLOWS[server]
    error = error_from_payload({"error": said}, status=status)
    assert type(error) is ContextOverflow
    assert stated_window(error.message) == window


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "messages: tool_call_id of message 3 was not found"),
        (400, "max_tokens must be at least 1"),
        (429, "Rate limit reached: 30000 tokens per minute, requested 40000"),
        (503, "the model is being loaded; its context size is not known yet"),
        (404, "The model `context-1` does not exist"),
        (401, "Incorrect API key provided"),
    ],
)
def test_other_refusals_are_not_taken_for_it(status: int, said: str) -> None:
    error = error_from_payload({"error": {"message": said}}, status=status)
    assert type(error) is not ContextOverflow
