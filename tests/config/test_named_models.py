"""Named models: which one is chosen, what it brings along, and how its key is found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qcode.config.key_command import output_of
from qcode.config.locations import Locations
from qcode.config.named_models import resolve_secret
from qcode.config.options import RunOptions
from qcode.config.sources import LoadedSettings, load_settings
from qcode.protocol.errors import SettingsError

TWO = """
temperature = 0.9
seed = 7

[models.lab]
base_url = "http://gpu:8000/v1/"
model = "Qwen/Qwen3-Coder-30B"
api_key = "sk-literal-secret"
context_window = "64K"
max_output_tokens = 8192
headers = { X-Team = "blue-secret" }
extra_body = { chat_template_kwargs = { enable_thinking = false } }
first_token_timeout = "10m"

[models.lab.sampling]
temperature = 0.2
top_k = 20

[models.lab.compatibility]
reasoning = "drop"

[models.other]
base_url = "https://example.org/v1"
"""


class Home:
    """One user's settings file."""

    def __init__(self, root: Path) -> None:
        self.locations = Locations.from_environment({"QCODE_HOME": str(root)})
        self.file = self.locations.user_settings
        self.root = root

    def load(
        self,
        text: str,
        flags: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        mode: int = 0o600,
    ) -> LoadedSettings:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)
        self.file.chmod(mode)
        options = RunOptions(cwd=self.root, flags=flags or {})
        return load_settings(options, environment=environment or {}, locations=self.locations)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_name_brings_its_endpoint_along(home: Home) -> None:
    loaded = home.load(TWO, {"model": "lab"}, {"OPENAI_BASE_URL": "http://elsewhere"})
    settings = loaded.settings
    named = settings.named_model
    assert named is not None
    assert (named.base_url, named.model) == ("http://gpu:8000/v1", "Qwen/Qwen3-Coder-30B")
    assert named.extra_body == {"chat_template_kwargs": {"enable_thinking": False}}
    assert (named.sampling.top_k, named.first_token_timeout) == (20, 600)
    assert settings.base_url is None
    assert (settings.context_window, settings.max_answer_tokens) == (65536, 8192)
    # What the table says goes before the rest of the file, and what it leaves open does not.
    assert (settings.temperature, settings.seed) == (0.2, 7)
    assert loaded.origin("temperature") == f"{home.file}:5: models.lab"
    assert "secret" not in repr(loaded)


def test_what_is_given_for_the_run_goes_before_the_table(home: Home) -> None:
    loaded = home.load(TWO, {"model": "lab", "context_window": 4096}, {"QCODE_TEMPERATURE": "0"})
    assert (loaded.settings.context_window, loaded.settings.temperature) == (4096, 0)


@pytest.mark.parametrize(
    ("flags", "environment", "chosen"),
    [
        ({}, {}, "other"),
        ({}, {"QCODE_MODEL": "lab"}, "lab"),
        ({"model": "lab"}, {"QCODE_MODEL": "other"}, "lab"),
        ({"model": "unheard-of"}, {}, None),
        ({"model": "lab", "base_url": "http://a"}, {}, None),
        ({"base_url": "http://a"}, {}, None),
        ({"model": "lab", "base_url": "local"}, {}, None),
        ({}, {"OPENAI_MODEL": "lab", "OPENAI_BASE_URL": "http://a"}, None),
    ],
)
def test_which_one_is_chosen(
    home: Home, flags: dict[str, object], environment: dict[str, str], chosen: str | None
) -> None:
    settings = home.load('model = "other"\n' + TWO, flags, environment).settings
    named = settings.named_model
    assert (named is None) == (chosen is None)
    if named is not None:
        assert settings.model == chosen
    elif flags.get("base_url") == "local":
        assert settings.base_url is None
    elif "base_url" in flags or environment:
        assert settings.base_url == "http://a"


@pytest.mark.parametrize("line", ['api_key = "x"', 'api_key = "!pass x"', 'headers = { a = "b" }'])
def test_a_file_others_can_read_holds_no_secrets(home: Home, line: str) -> None:
    text = f'[models.lab]\nbase_url = "http://a"\n{line}\n'
    with pytest.raises(SettingsError, match=r"config\.toml:1: models: others can read") as caught:
        home.load(text, mode=0o644)
    assert "chmod 600" in caught.value.hint
    home.load('[models.lab]\nbase_url = "http://a"\n', mode=0o644)


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        ('base_ulr = "http://b"', r"models\.lab\.base_ulr: there is no such", "Did you mean base_"),
        ("context_window = 0", r"models\.lab\.context_window: .*greater than 0", ""),
        ("sampling = { temperature = 9 }", r"models\.lab\.sampling\.temperature", ""),
        ('compatibility = { reasoning = "?" }', r"models\.lab\.compatibility\.reasoning", ""),
    ],
)
def test_a_bad_table_is_named_with_its_key(home: Home, line: str, says: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        home.load(f'[models.lab]\nbase_url = "http://a"\n{line}\n')
    assert caught.value.message.startswith(f"{home.file}:1: models")
    assert caught.value.hint.startswith(hint)


def test_a_table_needs_a_url(home: Home) -> None:
    with pytest.raises(SettingsError, match=r"models\.lab\.base_url: Field required"):
        home.load('[models.lab]\nmodel = "x"\n')
    with pytest.raises(SettingsError, match="not a URL as http"):
        home.load('[models.lab]\nbase_url = "gpu:8000"\n')


@pytest.mark.parametrize("written", ["$LAB_KEY", "${LAB_KEY}", "env:LAB_KEY", "sk-1"])
def test_a_key_is_itself_or_a_variable(written: str) -> None:
    assert resolve_secret(written, place="x", environment={"LAB_KEY": "sk-1"}) == "sk-1"


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SettingsError, match=r"models\.lab\.api_key: .* LAB_KEY is not set"):
        resolve_secret("$LAB_KEY", place="models.lab.api_key", environment={"LAB_KEY": ""})


def test_a_key_can_be_what_a_command_prints() -> None:
    command = f'!"{sys.executable}" -c "print(chr(115) + chr(107))"'
    assert resolve_secret(command, place="x", environment={}) == "sk"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("!echo sk-hidden; exit 3", r"x: the command for the key failed \(exit 3\)"),
        ("!true", "must print it"),
        ("!echo sk-hidden; echo more", "nothing else"),
        ("!no-such-program-here", r"failed \(exit 127\)"),
    ],
)
def test_a_command_that_gives_no_key_is_an_error_without_its_output(
    command: str, says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        resolve_secret(command, place="x", environment={"PATH": "/usr/bin:/bin"})
    assert "hidden" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.timeout(20)
def test_what_a_command_for_a_key_has_started_ends_with_it(tmp_path: Path) -> None:
    """The shell waits for a program of its own. Both hold the pipe open as long as they live."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = f"exec 3> {pipe}; sleep 300 & wait; true"
    with pytest.raises(SettingsError, match="did not end within 1 s"):
        output_of(command, place="x", environment={"PATH": "/usr/bin:/bin"}, timeout_s=1)
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)
