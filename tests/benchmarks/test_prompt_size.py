"""The fixed part of every request stays small: it is paid for before the first word."""

from __future__ import annotations

from benchmarks.prompt_size import TEMPLATES, estimated, measure


def test_system_prompt_and_tools_keep_to_the_limit_of_their_profile() -> None:
    sizes = measure(estimated)
    assert len(sizes) == 2 * len(TEMPLATES)
    for size in sizes:
        assert 0 < size.system < size.total <= size.limit, size
    full = {size.template: size for size in sizes if size.profile == "full"}
    for size in sizes:
        if size.profile == "lean":
            assert size.num_tools < full[size.template].num_tools
            assert size.total < full[size.template].total
