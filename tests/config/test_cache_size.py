"""How much of the disk the prefix cache may take is a size as people write it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from qcode.config.quantities import parse_size
from qcode.config.settings import Settings


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("10GB", 10 * 10**9),
        ("500 mb", 500 * 10**6),
        ("1.5T", 15 * 10**11),
        ("64k", 64_000),
        ("4096", 4096),
        ("off", 0),
        (" OFF ", 0),
        ("0", 0),
    ],
)
def test_sizes_are_decimal(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes
    assert Settings(prefix_cache=text).prefix_cache == text.strip()


@pytest.mark.parametrize("text", ["", "much", "-1GB", "10 gigabytes", "GB", "1e9", "10GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(prefix_cache=text)
