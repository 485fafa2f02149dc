"""Typed access to what a checkpoint's header says. The files are not trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn, cast

from qcode.protocol.errors import CheckpointError

MAX_LAYERS = 1024
MAX_WIDTH = 2**20
MAX_VOCABULARY = 2**22
MAX_POSITIONS = 2**26


class Fields:
    """Typed access to what a file says; a missing or impossible value raises CheckpointError."""

    def __init__(self, values: Mapping[str, object], source: str, prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self.source = source

    def fail(self, key: str, message: str) -> NoReturn:
        raise CheckpointError(f"{self.source}: {self._prefix}{key} {message}")

    def get(self, key: str) -> object:
        return self._values.get(self._prefix + key)

    def integer(
        self, key: str, *, default: int | None = None, low: int = 1, high: int = 2**31
    ) -> int:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.fail(key, "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(key, f"is {value!r}, not a number from {low} to {high}")
        return value

    def number(
        self, key: str, *, default: float | None = None, low: float = 1e-30, high: float = 1e30
    ) -> float:
        value = self.optional_number(key, low=low, high=high)
        if value is not None:
            return value
        if default is None:
            self.fail(key, "is missing")
        return default

    def optional_number(self, key: str, *, low: float, high: float) -> float | None:
        """A number within bounds, or None where the file has none."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"is {value!r}, not a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"is {value!r}, not true or false")
        return value

    def integers(self, key: str) -> frozenset[int]:
        """The numbers of a list, of a single number, or none."""
        value = self.get(key)
        if value is None:
            return frozenset()
        items = value if isinstance(value, Sequence) else (value,)
        if not all(isinstance(item, int) for item in items):
            self.fail(key, f"is {value!r}, not whole numbers")
        return frozenset(cast("Sequence[int]", items))

    def section(self, key: str) -> Fields | None:
        """An object inside this one, or None where it is missing or empty."""
        value = self.get(key)
        if not value:
            return None
        if not isinstance(value, Mapping):
            self.fail(key, f"is {value!r}, not an object")
        return Fields(value, self.source, prefix="")
