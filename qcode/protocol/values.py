"""`@dataclass(frozen=True, slots=True, kw_only=True)`, made in a fraction of the time.

The standard library compiles six methods for every such class. A program with a hundred of them
spends a tenth of its start on that. Here `__init__` alone is compiled; the other methods are
shared by all classes and go through the names of the fields. Everything else is the standard
library's: `fields`, `replace`, `asdict` and `is_dataclass` work, and type checkers are told that
it is its `dataclass`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    import dataclasses
    from dataclasses import MISSING, FrozenInstanceError

    def dataclass(*, frozen, slots, kw_only):
        if (frozen, slots, kw_only) != (True, True, True):
            raise TypeError("anything else is the standard library's to make")
        return _made

    def _made(cls):
        cls.__doc__ = cls.__doc__ or cls.__name__  # else one is made of the signature, slowly
        made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(
            cls
        )
        made.__init__ = _compiled_init(made)
        for method in _SHARED:
            if method.__name__ not in cls.__dict__:
                setattr(made, method.__name__, method)
        return made

    def _compiled_init(made):
        parameters, body, names = ["self"], [], {"_set": object.__setattr__, "_MISSING": MISSING}
        for number, each in enumerate(dataclasses.fields(made)):
            value = each.name
            parameters += ["*"] if number == 0 else []
            if each.default_factory is not MISSING:
                names[f"_make{number}"] = each.default_factory
                parameters.append(f"{each.name}=_MISSING")
                value = f"_make{number}() if {each.name} is _MISSING else {each.name}"
            elif each.default is not MISSING:
                names[f"_default{number}"] = each.default
                parameters.append(f"{each.name}=_default{number}")
            else:
                parameters.append(each.name)
            body.append(f"_set(self, {each.name!r}, {value})")
        if hasattr(made, "__post_init__"):
            body.append("self.__post_init__()")
        exec(f"def __init__({', '.join(parameters)}):\n {'; '.join(body) or 'pass'}", names)
        init = names["__init__"]
        init.__qualname__ = f"{made.__qualname__}.__init__"
        init.__annotations__ = {each.name: each.type for each in dataclasses.fields(made)}
        return init

    def _values(self):
        return tuple([getattr(self, name) for name in self.__dataclass_fields__])

    def __eq__(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        return _values(self) == _values(other)

    def __hash__(self):
        return hash(_values(self))

    def __repr__(self):
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{self.__class__.__qualname__}({', '.join(shown)})"

    def __setattr__(self, name, value):
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name):
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self):
        return list(_values(self))

    def __setstate__(self, state):
        for name, value in zip(self.__dataclass_fields__, state, strict=True):
            object.__setattr__(self, name, value)

    _SHARED = (
        __eq__, __hash__, __repr__, __setattr__, __delattr__, __getstate__, __setstate__,
    )  # fmt: skip
