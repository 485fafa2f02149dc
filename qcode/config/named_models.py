"""Models the user has named: `[models.NAME]` tables of the settings file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from qcode.config.key_command import output_of
from qcode.config.quantities import ContextTokens, PositiveInt, Seconds
from qcode.protocol.errors import SettingsError

_VARIABLE = re.compile(r"(?:\$|env:)([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def http_url(url: str) -> str:
    """A base URL without the slashes at its end. Raises ValueError."""
    url = url.strip()
    if not re.match(r"https?://[^/?#]", url):
        raise ValueError("not a URL as http://HOST:PORT/v1 or https://HOST/v1")
    return url.rstrip("/")


Temperature = Annotated[float, Field(ge=0, le=2)]
Probability = Annotated[float, Field(gt=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NamedSampling(_Table):
    """What a model is asked with where nothing else is set. None: the server's own default."""

    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: PositiveInt | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None


class Compatibility(_Table):
    """What is known better than by probing. None: as `qcode doctor --endpoint` found it.

    `reasoning`: earlier thinking goes back to the server, has to, or must not; `reasoning_field`
    is the field it goes in. `single_calls`: one tool call an answer. `fenced_calls`: calls in code
    blocks count. `omit`: optional request fields the server refuses.
    """

    reasoning: Literal["return", "require", "drop"] | None = None
    reasoning_field: Literal["reasoning_content", "reasoning", "reasoning_details"] | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    single_calls: bool | None = None
    fenced_calls: bool | None = None
    omit: tuple[str, ...] | None = None


class NamedModel(_Table):
    """One endpoint and the model to ask there. `model` is the server's name for it; the first one
    it lists, if not set. `api_key` and the values of `headers` may be `$NAME` or `env:NAME`, read
    from the environment, or `!COMMAND`, whose output they are. `cost_input` and `cost_output` are
    the prices of a million tokens."""

    base_url: Annotated[str, AfterValidator(http_url)]
    model: str | None = None
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    extra_body: dict[str, Any] = Field(default_factory=dict)
    sampling: NamedSampling = NamedSampling()
    context_window: ContextTokens | None = None
    max_output_tokens: PositiveInt | None = None
    cost_input: Annotated[float, Field(ge=0)] | None = None
    cost_output: Annotated[float, Field(ge=0)] | None = None
    strength: Literal["small", "large"] = "large"
    first_token_timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    compatibility: Compatibility = Compatibility()


def resolve_secret(written: str, *, place: str, environment: Mapping[str, str]) -> str:
    """The secret that `$NAME`, `env:NAME` or `!COMMAND` stands for, or the text itself. A command
    runs in the shell, with the environment as it is, and must end within half a minute.

    Raises SettingsError, which names the `place` and never the secret.
    """
    if written.startswith("!"):
        return output_of(written[1:], place=place, environment=environment)
    if (variable := _VARIABLE.fullmatch(written)) is None:
        return written
    name = variable[1] or variable[2]
    if value := environment.get(name):
        return value
    raise SettingsError(
        f"{place}: the environment variable {name} is not set", f"Set it: export {name}=..."
    )
