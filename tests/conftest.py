"""Every test gets its own home and working directory; nothing of the user's machine leaks in.

Tests marked `weights` use real model files. They are fetched once, before the first test runs,
into a folder that outlives the run: QCODE_TEST_MODELS, or one below the user's cache.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from qcode.engine.store.model_store import ModelStore, PullProgress

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
MODELS = Path(os.environ.get("QCODE_TEST_MODELS") or _CACHE / "qcode-tests" / "models")
os.environ["QCODE_TEST_MODELS"] = str(MODELS)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells start what runs in the background; every program the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """`weights` names the sizes it needs, "0.5b" if it names none."""
    sizes: set[str] = set()
    for item in session.items:
        marker = item.get_closest_marker("weights")
        if marker is not None:
            sizes.update(marker.args or ("0.5b",))
    for size in sorted(sizes):
        fetch_model(size)


def fetch_model(size: str) -> None:
    target = MODELS / f"qwen2.5-coder-{size}.gguf"
    if target.exists():
        return
    print(f"fetching qwen2.5-coder:{size} for the tests", file=sys.stderr)
    model = ModelStore(MODELS / "store").pull(f"qwen2.5-coder:{size}", print_note)
    with contextlib.suppress(FileExistsError):  # another worker was as fast
        target.symlink_to(model.path)


def print_note(progress: PullProgress) -> None:
    if progress.note:
        print(progress.note, file=sys.stderr)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def isolated_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("QCODE_")]:
        if name != "QCODE_TEST_MODELS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    return home
