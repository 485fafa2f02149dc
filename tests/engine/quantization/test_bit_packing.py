"""Integers packed into words without gaps."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcode.engine.quantization.bit_packing import num_words, unpack


@given(
    st.integers(1, 8).flatmap(
        lambda bits: st.tuples(
            st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=80)
        )
    ),
    st.data(),
)
def test_what_one_long_number_holds(packed: tuple[int, list[int]], data: st.DataObject) -> None:
    bits, values = packed
    number = sum(value << i * bits for i, value in enumerate(values))
    count = num_words(len(values), bits)
    content = np.frombuffer(number.to_bytes(4 * count, "little"), np.int32).copy()
    words = torch.from_numpy(content)
    places = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=20))
    expected = [values[place] for place in places]
    index = torch.tensor(places)
    assert unpack(words[:, None], bits, index, dim=0).flatten().tolist() == expected
    assert unpack(words[None, :], bits, index, dim=1).flatten().tolist() == expected
