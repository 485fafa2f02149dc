"""Profiles on disk: private, by endpoint and model, and no trouble when damaged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.profile_store import ProfileStore
from qcode.wire.openai_request import Dialect

URL = "http://user:hunter2@host/v1?key=hunter3"
PROFILE = EndpointProfile(
    context_window=4096,
    fenced_calls=True,
    dialect=Dialect(reasoning="require", omitted=frozenset({"top_k", "stop"})),
    server="vLLM 0.11",
)


def test_what_is_kept_comes_back_with_its_day(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "endpoints")
    path = store.save(URL, "m", PROFILE)
    assert path is not None
    today = datetime.now(UTC).date().isoformat()
    loaded = store.load("http://host/v1/", "m")
    assert loaded == EndpointProfile(
        context_window=4096,
        fenced_calls=True,
        dialect=PROFILE.dialect,
        server="vLLM 0.11",
        checked=today,
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "hunter" not in path.read_text()
    assert '"base_url": "http://host/v1"' in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_each_model_and_endpoint_has_its_own(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.save("http://host/v1", "m", PROFILE)
    assert store.load("http://host/v1", "n") is None
    assert store.load("http://other/v1", "m") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"context_window": "wide"}', "\xff"])
def test_a_damaged_profile_is_none(tmp_path: Path, text: str) -> None:
    store = ProfileStore(tmp_path)
    store.path(URL, "m").write_bytes(text.encode("latin-1"))
    assert store.load(URL, "m") is None
    assert store.save(URL, "m", PROFILE) is not None
    assert store.load(URL, "m") is not None


def test_a_newer_profile_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.path(URL, "m").write_text('{"context_window": 8192, "unheard": 1}')
    assert store.load(URL, "m") == EndpointProfile(context_window=8192)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ProfileStore(tmp_path / "file" / "below").save(URL, "m", PROFILE) is None
