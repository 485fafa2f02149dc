"""Values behave as those of the standard library do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, field, fields, is_dataclass, replace

import pytest
from pydantic import TypeAdapter, ValidationError

from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place."""

    x: int
    y: int = 2
    marks: list[str] = field(default_factory=list)

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    x: int
    y: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Place):
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")

    def __repr__(self) -> str:
        return "its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    x: int
    y: int = 2
    marks: list[str] = field(default_factory=list)


def test_it_is_made_and_shown_as_the_usual_one_is() -> None:
    for arguments in ({"x": 1}, {"x": 1, "y": 3}, {"y": 0, "x": 5, "marks": ["a"]}):
        made, usual = Point(**arguments), Usual(**arguments)
        assert asdict(made) == asdict(usual)
        assert repr(made) == repr(usual).replace("Usual", "Point")
    assert str(inspect.signature(Place)) == "(*, x: 'int', y: 'int' = 2)"


def test_what_is_wrong_is_refused_as_usual() -> None:
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'x'"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Point(x=1, z=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Point(1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="negative"):
        Checked(size=-1)
    with pytest.raises(TypeError, match="standard library"):
        dataclass(frozen=False, slots=True, kw_only=True)


def test_it_cannot_be_changed() -> None:
    point = Point(x=1)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    with pytest.raises(FrozenInstanceError):
        point.other = 2  # type: ignore[attr-defined]
    assert not hasattr(point, "__dict__")


def test_equal_fields_make_equal_values_of_one_class() -> None:
    assert Place(x=1) == Place(x=1, y=2)
    assert hash(Place(x=1)) == hash(Place(x=1, y=2))
    assert Place(x=1) != Place(x=2)
    assert Place(x=1) != Named(x=1)
    assert (Place(x=1) == object()) is False
    assert len({Place(x=1), Place(x=1), Named(x=1), Nothing(), Nothing()}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(x=1))


def test_each_value_has_its_own_default() -> None:
    assert Point(x=1).marks is not Point(x=1).marks


def test_what_the_standard_library_does_with_values_works() -> None:
    point = Point(x=1, marks=["a"])
    assert is_dataclass(Point)
    assert [each.name for each in fields(Point)] == ["x", "y", "marks"]
    assert replace(point, x=5) == Point(x=5, marks=["a"])
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    assert copy.copy(point).marks is point.marks
    assert point.sum == 3
    assert repr(Checked(size=1)) == "its own"
    assert Point.__doc__ == "A place."
    assert replace(Named(x=1, name="n"), y=0) == Named(x=1, y=0, name="n")


def test_it_can_be_read_from_json() -> None:
    adapter = TypeAdapter(Point)
    assert adapter.validate_json('{"x": 1, "marks": ["b"]}') == Point(x=1, marks=["b"])
    with pytest.raises(ValidationError):
        adapter.validate_json('{"y": 1}')
