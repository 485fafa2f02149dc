"""Build hook: compile the CPU kernels while the package is installed.

Without a compiler the package still works, on plain torch, only slower.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILD_MODULE = Path("qcode", "engine", "kernels", "build.py")


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # no builder config of ours
    """Adds the shared libraries of `qcode.engine.kernels` to wheels, editable ones included."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        kernels = _load_by_path(Path(self.root) / _BUILD_MODULE)
        try:
            built: list[Path] = kernels.build()
        except kernels.BuildFailed as error:
            self.app.display_warning(
                f"The CPU kernels were not compiled: {error}\n"
                "Local models will run on plain torch, many times slower. Install a C++ compiler "
                "and run `python -m qcode.engine.kernels.build` to change that."
            )
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"
        build_data["artifacts"].extend(str(path.relative_to(self.root)) for path in built)


def _platform_tag() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _load_by_path(path: Path) -> ModuleType:
    """The module at `path`, without importing its package, which may need what is not there."""
    spec = importlib.util.spec_from_file_location("qcode_kernels_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
