"""Entry point. `--version` is answered before anything else is imported."""

from __future__ import annotations

# What `signal` wraps, without its enums: every millisecond up to here ends in a traceback.
import _signal  # type: ignore[import-not-found]
import os
import sys
from types import ModuleType

_PLUGIN_LOADER = "pydantic.plugin._loader"
_OBJECTS_A_COLLECTION = 100_000


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from qcode import __version__

        print(f"qcode {__version__}")
        return
    quiet = _QuietInterrupt()
    quiet.begin()
    import gc

    _leave_out_plugins()
    # What is loaded lives to the end. Searching it for garbage, hundreds of times while it is
    # loaded and once more at the end, would take a tenth of the start and most of the exit.
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    from qcode.cli.app import app

    try:
        app(quiet.end)
    finally:
        quiet.begin()
        gc.freeze()


class _QuietInterrupt:
    """While the program is loaded, and while it ends, Ctrl-C ends it at once: there is nothing to
    be put in order, and an interruption in the middle of an import has no good place to go. Where
    the caller has SIGINT ignored, as for a command in the background, it stays so."""

    def __init__(self) -> None:
        self._heeded = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler

    def begin(self) -> None:
        if self._heeded:
            _signal.signal(_signal.SIGINT, _leave)

    def end(self) -> None:
        if self._heeded:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _leave(number: int, frame: object) -> None:
    os._exit(128 + number)


def _leave_out_plugins() -> None:
    """Code that happens to be installed beside qcode has no business in it, and what looks for it
    takes a thirtieth of the start to load alone."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if _PLUGIN_LOADER not in sys.modules:
        sys.modules[_PLUGIN_LOADER] = _NoPlugins(_PLUGIN_LOADER)


class _NoPlugins(ModuleType):
    """Pydantic's search for plugins, which finds none. All else is the real module's."""

    def get_plugins(self) -> tuple[object, ...]:
        return ()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        from importlib import import_module

        del sys.modules[_PLUGIN_LOADER]
        return getattr(import_module(_PLUGIN_LOADER), name)


if __name__ == "__main__":
    main()
