"""Where settings, sessions, logs and models live: the XDG directories, or all under QCODE_HOME."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT_FOLDER = ".qcode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """The same layout on every system, so that one sentence of documentation is true on all."""

    config: Path
    data: Path
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Locations:
        """QCODE_HOME wins. A relative XDG path is ignored, as its specification asks."""
        if qcode_home := environment.get("QCODE_HOME"):
            root = Path(qcode_home).expanduser().absolute()
            return cls(
                config=root / "config",
                data=root / "data",
                state=root / "state",
                cache=root / "cache",
            )
        home = Path(environment.get("HOME") or Path.home())

        def base(name: str, fallback: str) -> Path:
            value = Path(environment.get(name, ""))
            return (value if value.is_absolute() else home / fallback) / "qcode"

        return cls(
            config=base("XDG_CONFIG_HOME", ".config"),
            data=base("XDG_DATA_HOME", ".local/share"),
            state=base("XDG_STATE_HOME", ".local/state"),
            cache=base("XDG_CACHE_HOME", ".cache"),
        )

    @property
    def user_settings(self) -> Path:
        return self.config / "config.toml"

    @property
    def trusted_folders(self) -> Path:
        """One absolute path a line."""
        return self.config / "trusted_folders"

    @property
    def sessions(self) -> Path:
        return self.data / "sessions"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def spilled_output(self) -> Path:
        """Command output too long for the model is kept here whole."""
        return self.cache / "output"

    @property
    def prefixes(self) -> Path:
        """What the bundled engine has computed of prompts, to begin with next time."""
        return self.cache / "prefixes"

    @property
    def packed_weights(self) -> Path:
        """Weights as the kernels multiply them, of models that are not ours."""
        return self.cache / "packed"

    @property
    def patches(self) -> Path:
        """Changes that passed but could not be put in place."""
        return self.state / "patches"

    @property
    def log(self) -> Path:
        return self.state / "qcode.log"

    @property
    def endpoint_profiles(self) -> Path:
        """What is known of each model at each endpoint."""
        return self.state / "endpoints"

    @property
    def input_history(self) -> Path:
        return self.state / "history"


def project_settings(folder: Path) -> Path:
    """The settings file a project may carry."""
    return folder / PROJECT_FOLDER / "config.toml"
