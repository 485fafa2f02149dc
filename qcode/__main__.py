"""Entry point. `--version` is answered before anything else is imported."""

from __future__ import annotations

import sys
from types import ModuleType

_PLUGIN_LOADER = "pydantic.plugin._loader"
_OBJECTS_A_COLLECTION = 100_000


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        from qcode import __version__

        print(f"qcode {__version__}")
        return
    import gc

    _leave_out_plugins()
    # What is loaded lives to the end. Searching it for garbage, hundreds of times while it is
    # loaded and once more at the end, would take a tenth of the start and most of the exit.
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    from qcode.cli.app import app

    try:
        app()
    finally:
        gc.freeze()


def _leave_out_plugins() -> None:
    """Code that happens to be installed beside qcode has no business in it, and what looks for it
    takes a thirtieth of the start to load alone."""
    import os

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
