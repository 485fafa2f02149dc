"""Settings: which source wins, what a project may not do, and what an error says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from qcode.config.locations import Locations, project_settings
from qcode.config.options import RunOptions
from qcode.config.sources import NEVER_FROM_PROJECT, LoadedSettings, load_settings
from qcode.config.trust import distrust, is_trusted, trust
from qcode.protocol.errors import SettingsError
from qcode.protocol.permissions import Mode


class Machine:
    """A user's settings file and one project folder."""

    def __init__(self, root: Path) -> None:
        self.locations = Locations.from_environment({"QCODE_HOME": str(root / "home")})
        self.project = root / "project"
        self.project.mkdir()

    def user(self, text: str) -> Path:
        return self._write(self.locations.user_settings, text)

    def project_file(self, text: str) -> Path:
        return self._write(project_settings(self.project), text)

    def load(
        self,
        flags: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        *,
        trusted: bool = False,
    ) -> LoadedSettings:
        options = RunOptions(cwd=self.project, flags=flags or {}, trust=trusted)
        return load_settings(options, environment=environment or {}, locations=self.locations)

    @staticmethod
    def _write(file: Path, text: str) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        return file


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_each_source_yields_to_the_stronger_one_and_is_named(machine: Machine) -> None:
    user = machine.user('model = "of-user"\ntop_p = 0.5\n')
    project = machine.project_file('model = "of-project"\nseed = 3\n')
    environment = {"QCODE_MODEL": "of-environment", "QCODE_MAX_TURNS": "7"}

    loaded = machine.load({"model": "of-flag"}, environment, trusted=True)

    assert loaded.settings.model == "of-flag"
    assert (loaded.settings.top_p, loaded.settings.seed, loaded.settings.max_turns) == (0.5, 3, 7)
    assert loaded.origins == {
        "model": "--model",
        "max_turns": "QCODE_MAX_TURNS",
        "seed": f"{project}:2: seed",
        "top_p": f"{user}:2: top_p",
    }
    assert loaded.origin("verify") == "default"
    without_flag = machine.load({}, environment, trusted=True)
    assert without_flag.settings.model == "of-environment"
    assert machine.load(trusted=True).settings.model == "of-project"
    assert machine.load().settings.model == "of-user"


def test_own_variables_beat_those_shared_with_other_programs(machine: Machine) -> None:
    shared = {
        "OPENAI_BASE_URL": "http://a/v1/",
        "OPENAI_API_KEY": "secret",
        "OPENAI_MODEL": "a",
    }
    loaded = machine.load({}, shared)
    assert loaded.settings.base_url == "http://a/v1"
    assert loaded.settings.model == "a"
    assert loaded.settings.api_key is not None
    assert loaded.settings.api_key.get_secret_value() == "secret"
    assert "secret" not in repr(loaded)
    both = machine.load({}, {**shared, "QCODE_MODEL": "b", "QCODE_BASE_URL": "http://b"})
    assert (both.settings.model, both.settings.base_url) == ("b", "http://b")


def test_a_model_for_an_endpoint_is_ignored_without_the_endpoint(machine: Machine) -> None:
    machine.user('model = "mine.gguf"\n')
    assert machine.load({}, {"OPENAI_MODEL": "a"}).settings.model == "mine.gguf"
    shared = {"OPENAI_MODEL": "a", "OPENAI_BASE_URL": "http://a"}
    local = machine.load({"base_url": "local"}, shared)
    assert (local.settings.base_url, local.settings.model) == (None, "mine.gguf")


def test_rules_add_up_over_all_sources(machine: Machine) -> None:
    machine.user('deny = ["Bash(rm:*)"]\nallow = ["Edit"]\n')
    machine.project_file('deny = ["Read(secrets/**)"]\n')
    loaded = machine.load(
        {"allow": ["Bash(pytest:*)"]}, {"QCODE_DENY": "Bash(a, b)\nBash(c)"}, trusted=True
    )
    assert set(loaded.settings.deny) == {"Bash(rm:*)", "Read(secrets/**)", "Bash(a, b)", "Bash(c)"}
    assert set(loaded.settings.allow) == {"Bash(pytest:*)", "Edit"}
    assert "QCODE_DENY" in loaded.origin("deny")


def test_an_untrusted_project_changes_nothing_and_is_mentioned_once(machine: Machine) -> None:
    file = machine.project_file("this is not even TOML")
    loaded = machine.load()
    assert loaded.settings == machine.load().settings
    assert len(loaded.notices) == 1
    assert str(file) in loaded.notices[0]
    assert "qcode settings trust" in loaded.notices[0]


def test_trust_is_of_one_folder_by_its_real_path(machine: Machine, tmp_path: Path) -> None:
    machine.project_file("seed = 5\n")
    link = tmp_path / "link"
    link.symlink_to(machine.project)
    below = machine.project / "below"
    below.mkdir()
    trust(link, machine.locations)
    trust(link, machine.locations)
    assert is_trusted(machine.project, machine.locations)
    assert not is_trusted(below, machine.locations)
    assert machine.load().settings.seed == 5
    assert machine.locations.trusted_folders.stat().st_mode & 0o777 == 0o600
    assert machine.locations.trusted_folders.read_text().count("\n") == 1
    distrust(machine.project, machine.locations)
    assert not is_trusted(machine.project, machine.locations)


def test_the_callers_environment_can_trust_for_one_run(machine: Machine) -> None:
    machine.project_file("seed = 5\n")
    assert machine.load({}, {"QCODE_TRUST": "1"}).settings.seed == 5


FORBIDDEN_VALUES = {
    "base_url": '"http://evil"',
    "api_key": '"k"',
    "models": '{ x = { base_url = "http://evil", api_key = "!evil" } }',
    "allow": '["Bash"]',
    "verify": '"make evil"',
    "system_prompt": '"Do what I say."',
}


@pytest.mark.parametrize("key", sorted(NEVER_FROM_PROJECT))
def test_a_trusted_project_still_may_not_set(machine: Machine, key: str) -> None:
    file = machine.project_file(f"{key} = {FORBIDDEN_VALUES[key]}\n")
    with pytest.raises(SettingsError, match=f"{re.escape(str(file))}:1: {key}"):
        machine.load(trusted=True)


@pytest.mark.parametrize("mode", ["yolo", "auto-edit", "default"])
def test_a_project_can_only_tighten_the_mode(machine: Machine, mode: str) -> None:
    machine.project_file(f'approval_mode = "{mode}"\n')
    with pytest.raises(SettingsError, match="tighten"):
        machine.load(trusted=True)
    machine.project_file('approval_mode = "plan"\n')
    assert machine.load(trusted=True).settings.approval_mode is Mode.PLAN


def test_yolo_is_typed_never_configured(machine: Machine) -> None:
    machine.user('approval_mode = "yolo"\n')
    with pytest.raises(SettingsError, match="yolo"):
        machine.load()


def test_a_key_others_can_read_is_refused(machine: Machine) -> None:
    file = machine.user('api_key = "k"\n')
    assert machine.load().settings.api_key is not None
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="others can read") as caught:
        machine.load()
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modle = 'x'", "config.toml:1: modle: there is no such setting"),
        ("seed = 1\nmax_turns = 0", "config.toml:2: max_turns: .*greater than 0"),
        ("approval_mode = 'brave'", "config.toml:1: approval_mode"),
        ("base_url = 'localhost:8000'", "config.toml:1: base_url: not a URL as http"),
        ("max_wall_time = 'soon'", "config.toml:1: max_wall_time: not a duration"),
        ("deny = 'Bash'", "config.toml:1: deny"),
        ("deny = ['Bsh(rm:*)']", "config.toml:1: deny: malformed permission rule"),
        ("seed = x", "config.toml: cannot be read as TOML: .*line 1"),
    ],
)
def test_a_bad_file_is_named_with_its_key(machine: Machine, text: str, says: str) -> None:
    machine.user(text)
    with pytest.raises(SettingsError, match=says):
        machine.load()


def test_a_typing_error_gets_a_suggestion(machine: Machine) -> None:
    machine.user("modle = 'x'")
    with pytest.raises(SettingsError) as caught:
        machine.load()
    assert caught.value.hint == "Did you mean model?"


def test_a_bad_variable_and_a_bad_flag_are_named(machine: Machine) -> None:
    with pytest.raises(SettingsError, match=r"^QCODE_MAX_TURNS: "):
        machine.load({}, {"QCODE_MAX_TURNS": "many"})
    with pytest.raises(SettingsError, match=r"^--max-turns: "):
        machine.load({"max_turns": "0"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5m", 90)]
)
def test_durations(machine: Machine, text: str, seconds: float) -> None:
    assert machine.load({"max_wall_time": text}).settings.max_wall_time == seconds


def test_locations_follow_the_xdg_specification(tmp_path: Path) -> None:
    plain = Locations.from_environment({"HOME": "/home/ada"})
    assert plain.user_settings == Path("/home/ada/.config/qcode/config.toml")
    assert plain.models == Path("/home/ada/.local/share/qcode/models")
    assert plain.log == Path("/home/ada/.local/state/qcode/qcode.log")
    assert plain.cache == Path("/home/ada/.cache/qcode")
    moved = Locations.from_environment(
        {"HOME": "/home/ada", "XDG_CONFIG_HOME": "/etc/ada", "XDG_DATA_HOME": "relative"}
    )
    assert moved.config == Path("/etc/ada/qcode")
    assert moved.data == Path("/home/ada/.local/share/qcode")
    together = Locations.from_environment({"QCODE_HOME": str(tmp_path), **os.environ})
    assert together.sessions.is_relative_to(tmp_path)
    assert together.user_settings.is_relative_to(tmp_path)


def test_bare_reads_no_file(machine: Machine) -> None:
    machine.user("seed = 5\n")
    machine.project_file("this is no TOML")
    options = RunOptions(cwd=machine.project, flags={"max_turns": 3}, trust=True, bare=True)
    loaded = load_settings(options, environment={"QCODE_TOP_P": "0.5"}, locations=machine.locations)
    assert (loaded.settings.seed, loaded.settings.top_p, loaded.settings.max_turns) == (
        None,
        0.5,
        3,
    )
    assert loaded.notices == ()


@pytest.mark.parametrize(
    ("value", "tools"),
    [("Read,edit glob", ("Read", "edit", "glob")), ("", ()), (["a,b", "c"], ("a", "b", "c"))],
)
def test_tools_are_words(machine: Machine, value: object, tools: tuple[str, ...]) -> None:
    assert machine.load({"tools": value}).settings.tools == tools
