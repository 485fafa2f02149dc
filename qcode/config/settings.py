"""Every option: its type, default and description."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from qcode.config.named_models import NamedModel, http_url
from qcode.config.quantities import ContextTokens, PositiveInt, Seconds, SizeText
from qcode.engine.options import KVDtypeName, Speculation
from qcode.protocol.permissions import Mode


def _http_or_local(url: str) -> str:
    if url == "local":
        return url
    try:
        return http_url(url)
    except ValueError as error:
        raise ValueError(f"{error}, and not `local`") from error


def _words(value: object) -> object:
    """`a,b c` as a list of words, also inside a list; what is neither is left to the type."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in str(item).replace(",", " ").split()]
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
Price = Annotated[float, Field(ge=0)]
BaseUrl = Annotated[str, AfterValidator(_http_or_local)]


class Settings(BaseModel):
    """The values one run works with. None means: not limited, or decided from what is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        default=None,
        description="Model name at the endpoint; or one of the named models, a local model's name, "
        "a .gguf file, a checkpoint folder, or scripted:FILE.",
    )
    models: dict[str, NamedModel] = Field(
        default_factory=dict,
        description="Named models, each a table [models.NAME] with base_url, model, api_key, "
        "headers, extra_body, sampling, context_window and more: see the guide on endpoints.",
    )
    base_url: BaseUrl | None = Field(
        default=None,
        description="Chat Completions URL. `local` means the bundled engine, whatever the "
        "environment says.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key for the endpoint. Better kept in OPENAI_API_KEY."
    )
    context_window: ContextTokens | None = Field(
        default=None,
        description="Context window in tokens, as 32768, 256K or 1M; the model's own if not set. "
        "The bundled engine scales a model beyond its own window by YaRN.",
    )
    kv_dtype: KVDtypeName = Field(
        default="auto",
        description="What the bundled engine keeps keys and values in: auto, fp16, bf16, fp8, "
        "int8. The last two take half the memory; auto is int8 on a CPU for windows beyond 16K.",
    )
    speculation: Speculation = Field(
        default="auto",
        description="Whether the bundled engine guesses tokens that an answer copies, and checks "
        "several in one step: auto where that is faster, or off. Answers are the same.",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="Sampling temperature; 0 is greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Nucleus sampling: the probability mass kept."
    )
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    max_answer_tokens: PositiveInt | None = Field(
        default=None, description="Longest single answer of the model, in tokens."
    )
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads of the bundled engine."
    )
    prefix_cache: SizeText = Field(
        default="10GB",
        description="How much the bundled engine keeps on disk of what it has read, so that the "
        "same beginning is not read again by the next run: a size, or off.",
    )
    packed_weights: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether the bundled engine maps weights from files that `qcode model pull` "
        "and `optimize` write, about as large as the model, so that it starts at once: auto, off.",
    )
    approval_mode: Mode = Field(
        default=Mode.DEFAULT,
        description="How much may run unasked: plan, default, auto-edit, yolo.",
    )
    allow: tuple[str, ...] = Field(
        default=(), description="Rules for what may run unasked, such as Bash(pytest:*)."
    )
    ask: tuple[str, ...] = Field(default=(), description="Rules for what is always asked first.")
    deny: tuple[str, ...] = Field(default=(), description="Rules for what never runs.")
    max_turns: PositiveInt | None = Field(
        default=None, description="Model requests one prompt may take."
    )
    max_tool_calls: PositiveInt | None = Field(
        default=None, description="Tool calls one prompt may take."
    )
    max_wall_time: Seconds | None = Field(
        default=None, description="Seconds one prompt may take; 30s, 5m and 1h are understood."
    )
    max_tokens: PositiveInt | None = Field(
        default=None, description="Tokens one prompt may take, read and written ones together."
    )
    max_cost: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="What one prompt may cost, in the currency of cost_input and cost_output.",
    )
    cost_input: Price | None = Field(
        default=None,
        description="Price of a million tokens read. Cached ones count in full, so that max_cost "
        "is never exceeded by what a server does not say.",
    )
    cost_output: Price | None = Field(
        default=None, description="Price of a million tokens written."
    )
    tools: Words | None = Field(
        default=None,
        description="The tools the model gets, by name, or Read, Edit, Bash for all of a kind; "
        "all if not set.",
    )
    system_prompt: str | None = Field(
        default=None, description="Takes the place of qcode's own system prompt."
    )
    append_system_prompt: str | None = Field(
        default=None, description="Stands at the end of the system prompt."
    )
    command_timeout: Seconds = Field(
        default=120.0, description="Seconds a command may run before it is stopped."
    )
    verify: str | None = Field(
        default=None, description="Command that must succeed before the work counts as done."
    )
    repair: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="When the harness leads the repair of a failing test itself: auto is for "
        "models too weak to be left alone with it.",
    )

    sandbox: Literal["auto", "require"] = Field(
        default="auto",
        description="Whether commands must run in an operating-system sandbox: require refuses to "
        "start without one. This version has none yet.",
    )
    profile: Literal["auto", "lean", "full"] = Field(
        default="auto",
        description="How much the model is told and offered: lean is a short prompt and five "
        "tools. auto chooses by the model's size and window.",
    )
    edit_format: Literal["auto", "replace", "whole"] = Field(
        default="auto",
        description="How the model changes files: replace a passage, or write the whole file. "
        "auto is whole for a small model.",
    )
    failure_context: bool = Field(
        default=True,
        description="When a prompt asks for a repair: first run what fails, and read the files "
        "that its output names.",
    )
    run_tests: bool = Field(
        default=True,
        description="Without verify: run the project's tests after a change, before the work is "
        "called done.",
    )
    best_of: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1,
        description="Attempts at a task, side by side in copies of the project; the first that "
        "the verify command passes is kept. Limits hold for each attempt.",
    )
    resample: bool = Field(
        default=True,
        description="Sample at a higher temperature after the same failure came twice.",
    )

    @property
    def named_model(self) -> NamedModel | None:
        """The one that is chosen, if one is."""
        return None if self.base_url or not self.model else self.models.get(self.model)
