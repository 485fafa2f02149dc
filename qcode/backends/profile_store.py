"""Endpoint profiles on disk. They hold no key and nothing of what was said."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from qcode.backends.base_url import normalise_base_url, without_secrets
from qcode.backends.endpoint_profile import EndpointProfile

logger = logging.getLogger(__name__)

_MAX_FILE_BYTES = 64 << 10
_PROFILE = TypeAdapter(EndpointProfile)


class ProfileStore:
    """One file for each model at each base URL, readable by its owner alone. A file that cannot be
    read or written costs no more than what it would have told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, base_url: str, model: str) -> Path:
        name = f"{without_secrets(normalise_base_url(base_url))} {model}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"

    def load(self, base_url: str, model: str) -> EndpointProfile | None:
        path = self.path(base_url, model)
        try:
            with path.open("rb") as file:
                return _PROFILE.validate_json(file.read(_MAX_FILE_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logger.warning("%s is ignored: %s", path, error)
            return None

    def save(self, base_url: str, model: str, profile: EndpointProfile) -> Path | None:
        """None where it could not be kept."""
        path = self.path(base_url, model)
        kept = replace(profile, checked=datetime.now(UTC).date().isoformat())
        document = {
            "base_url": without_secrets(normalise_base_url(base_url)),
            "model": model,
            **_PROFILE.dump_python(kept, mode="json"),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary.unlink(missing_ok=True)
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(json.dumps(document, indent=2, sort_keys=True) + "\n")
            temporary.replace(path)
        except OSError as error:
            logger.warning("%s cannot be written: %s", path, error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            return None
        return path
