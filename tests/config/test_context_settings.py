"""How a context window and the number format of its cache are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcode.config.locations import Locations
from qcode.config.options import RunOptions
from qcode.config.settings import Settings
from qcode.config.sources import load_settings
from qcode.engine.options import KV_DTYPES
from qcode.protocol.errors import SettingsError


def loaded(tmp_path: Path, **environment: str) -> Settings:
    return load_settings(
        RunOptions(cwd=tmp_path),
        environment=environment,
        locations=Locations.from_environment({"QCODE_HOME": str(tmp_path)}),
    ).settings


@pytest.mark.parametrize(
    ("text", "num_tokens"), [("5000", 5000), ("256K", 262_144), ("1m", 1_048_576)]
)
def test_a_context_window_is_a_number_or_a_size(tmp_path: Path, text: str, num_tokens: int) -> None:
    assert loaded(tmp_path, QCODE_CONTEXT_WINDOW=text).context_window == num_tokens
    assert Settings(context_window=num_tokens).context_window == num_tokens


@pytest.mark.parametrize("text", ["many", "0", "-4", "1.5K"])
def test_what_is_no_context_window_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="QCODE_CONTEXT_WINDOW"):
        loaded(tmp_path, QCODE_CONTEXT_WINDOW=text)


@pytest.mark.parametrize("name", KV_DTYPES)
def test_the_cache_has_short_names(tmp_path: Path, name: str) -> None:
    assert loaded(tmp_path, QCODE_KV_DTYPE=name).kv_dtype == name


def test_other_names_of_the_cache_are_refused(tmp_path: Path) -> None:
    assert loaded(tmp_path).kv_dtype == "auto"
    with pytest.raises(SettingsError, match="QCODE_KV_DTYPE"):
        loaded(tmp_path, QCODE_KV_DTYPE="int4")
