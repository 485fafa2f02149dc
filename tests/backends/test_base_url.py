"""Base URLs, as people write them and as they are asked."""

from __future__ import annotations

import pytest

from qcode.backends.base_url import is_loopback, normalise_base_url, without_secrets
from qcode.protocol.errors import SettingsError


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("localhost:8080", "http://localhost:8080/v1"),
        ("127.0.0.1", "http://127.0.0.1/v1"),
        ("api.example.com", "https://api.example.com/v1"),
        (" https://api.example.com:443/v1/ ", "https://api.example.com/v1"),
        ("http://api.example.com:80", "http://api.example.com/v1"),
        ("HTTP://Host:81/a/b/", "http://host:81/a/b"),
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("https://host/chat/completions/", "https://host/v1"),
        ("http://[::1]:9/v1", "http://[::1]:9/v1"),
        ("http://bücher.example/v1", "http://xn--bcher-kva.example/v1"),
        ("http://host/a b/%20", "http://host/a%20b/%20"),
        ("http://my_host/v1#part", "http://my_host/v1"),
    ],
)
def test_one_url_has_one_form(written: str, shown: str) -> None:
    url = normalise_base_url(written)
    assert str(url) == shown
    assert normalise_base_url(str(url)) == url


def test_what_is_secret_is_kept_apart() -> None:
    url = normalise_base_url("https://me:p%40ss@host/openai?api-version=1&key=a b")
    assert url.credentials == "me:p@ss"
    assert url.target == "/openai?api-version=1&key=a%20b"
    assert url.at("/openai/models").target == "/openai/models?api-version=1&key=a%20b"
    assert without_secrets(url) == "https://host/openai"


@pytest.mark.parametrize(
    "written",
    ["", "http://", "ftp://host", "http://[::1", "http://[zz]/v1", "http://a b/v1", "http://-/v1",
     "http://host:port/v1", "http://host:99999/v1", "http://host/\nX: y", "http://host/\x00"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_a_wrong_setting(written: str) -> None:
    with pytest.raises(SettingsError, match="base URL"):
        normalise_base_url(written)


@pytest.mark.parametrize(
    "written",
    [
        "http://me:hidden@host:port/v1",
        "http://me:hid/hidden@host/v1",
        "http://me:@hidden@:99999/v1",
        "http://me:hidden#x@host/v1",
        "http://me:hidden@ho st/v1",
        "ftp://me:hidden@host",
        "http://me:hidden\n@host",
        "http://me:hidden\u2100@host",
        "http://[::1/v1?api-key=hidden",
        "me:hidden@host:port",
    ],
)
def test_an_error_never_shows_the_password(written: str) -> None:
    with pytest.raises(SettingsError) as caught:
        normalise_base_url(written)
    raised: BaseException | None = caught.value
    while raised is not None:
        assert "hidden" not in f"{raised} {raised.args}"
        raised = raised.__cause__


@pytest.mark.parametrize(
    ("written", "local"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.8.8.8:1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
    ],
)
def test_this_machine_is_told_from_others(written: str, local: bool) -> None:
    assert is_loopback(normalise_base_url(written)) is local
