"""The files tools may touch: paths resolved once, text read with its stamp, writes that are whole
or not at all.

A path is decided on after its links are followed, and the file is then opened component by
component without following any, so a link put in place between the two makes the open fail. Only
regular files are read or written. Text keeps its bytes: encoding, byte-order mark and newlines
survive an edit, and so does the mode.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from qcode.protocol.errors import FileChanged, NotText, OutsideWorkspace, ToolError
from qcode.protocol.values import dataclass

MAX_TEXT_BYTES = 10 * 1024 * 1024
BINARY_PROBE_BYTES = 8192

Encoding = Literal["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "latin-1"]
_MARKS: dict[Encoding, bytes] = {
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """What a file was when it was read. Two stamps are of the same content if `sha256` is equal."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file's text, newlines as they are and the byte-order mark left out."""

    text: str
    encoding: Encoding
    stamp: FileStamp


class Workspace(Protocol):
    """Raises `ToolError` for what cannot be read or written."""

    @property
    def root(self) -> Path: ...

    def resolve(self, path: str) -> Path:
        """Absolute, links followed; relative to `root`. May lie outside: ask `contains`."""
        ...

    def contains(self, path: Path) -> bool: ...

    async def read(self, path: Path) -> TextFile: ...

    async def read_text(self, path: Path) -> str: ...

    async def write_text(
        self,
        path: Path,
        text: str,
        *,
        replaces: FileStamp | None = None,
        must_be_new: bool = False,
    ) -> FileStamp: ...


class LocalWorkspace:
    """A directory of this machine. Reads go anywhere (whether they may is decided before), writes
    only into the root."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def resolve(self, path: str) -> Path:
        if "\0" in path:
            raise ToolError("a path cannot hold a NUL character")
        expanded = os.path.expanduser(path) if path.startswith("~") else path  # noqa: PTH111
        return Path(os.path.realpath(self.root / expanded))

    def contains(self, path: Path) -> bool:
        return path == self.root or self.root in path.parents

    async def read(self, path: Path) -> TextFile:
        """Raises `NotText` for binary data, `ToolError` for anything but a readable file of at
        most `MAX_TEXT_BYTES`."""
        return await asyncio.to_thread(self._read, path)

    async def read_text(self, path: Path) -> str:
        return (await self.read(path)).text

    async def write_text(
        self,
        path: Path,
        text: str,
        *,
        replaces: FileStamp | None = None,
        must_be_new: bool = False,
    ) -> FileStamp:
        """Write the whole file, in the encoding it has, else UTF-8; make missing directories.

        With `replaces` the file must still have that content, with `must_be_new` it must not
        exist: else `FileChanged`, and the file stays as it is.
        """
        if not self.contains(path) or path == self.root:
            raise OutsideWorkspace(f"{path} is outside the workspace {self.root}")
        # Shielded: a write that has begun is finished, then the cancellation goes on.
        return await asyncio.shield(
            asyncio.to_thread(self._write, path, text, replaces, must_be_new)
        )

    def _read(self, path: Path) -> TextFile:
        with _readable_errors(path), _open_directory(path.parent) as directory:
            data, status = _read_bytes(directory, path)
        encoding = _detect_encoding(data)
        mark = _MARKS.get(encoding, b"")
        codec = "utf-8" if encoding == "utf-8-sig" else encoding
        return TextFile(
            text=data[len(mark) :].decode(codec), encoding=encoding, stamp=_stamp(data, status)
        )

    def _write(
        self, path: Path, text: str, replaces: FileStamp | None, must_be_new: bool
    ) -> FileStamp:
        with _readable_errors(path), _open_directory(path.parent, create=True) as directory:
            try:
                old, status = _read_bytes(directory, path)
            except FileNotFoundError:
                if replaces is not None:
                    raise FileChanged(f"{path.name} is gone; it was there when read") from None
                data = _encode(text, "utf-8", path)
                written = _create(directory, path.name, data, exclusive=must_be_new)
                return _stamp(data, written)
            if must_be_new:
                raise FileChanged(f"{path.name} exists by now; read it first")
            if replaces is not None and _stamp(old, status).sha256 != replaces.sha256:
                raise FileChanged(f"{path.name} changed on disk; read it again")
            data = _encode(text, _detect_encoding(old), path)
            if status.st_nlink > 1:
                written = _overwrite(directory, path.name, old, data)
            else:
                written = _replace(directory, path.name, old, status, data)
            return _stamp(data, written)


def _stamp(data: bytes, status: os.stat_result) -> FileStamp:
    return FileStamp(
        size=len(data), mtime_ns=status.st_mtime_ns, sha256=hashlib.sha256(data).hexdigest()
    )


def _detect_encoding(data: bytes) -> Encoding:
    """By its mark, else UTF-8 where that is valid, else latin-1, which any byte survives."""
    for encoding, mark in _MARKS.items():
        if data.startswith(mark) and _decodes(data[len(mark) :], encoding):
            return encoding
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        raise NotText(f"binary file of {len(data)} bytes")
    return "utf-8" if _decodes(data, "utf-8") else "latin-1"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode("utf-8" if encoding == "utf-8-sig" else encoding)
    except UnicodeDecodeError:
        return False
    return True


def _encode(text: str, encoding: Encoding, path: Path) -> bytes:
    codec = "utf-8" if encoding == "utf-8-sig" else encoding
    try:
        return _MARKS.get(encoding, b"") + text.encode(codec)
    except UnicodeEncodeError as error:
        character = text[error.start]
        raise ToolError(
            f"{path.name} is {encoding} and cannot hold {character!r} (U+{ord(character):04X})"
        ) from None


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ToolError:
        raise
    except FileNotFoundError:
        raise ToolError(f"no such file: {path}") from None
    except OSError as error:
        raise ToolError(f"{path}: {(error.strerror or str(error)).lower()}") from error


@contextlib.contextmanager
def _open_directory(path: Path, *, create: bool = False) -> Iterator[int]:
    """A descriptor of a directory reached without following any link."""
    descriptor = os.open(path.anchor, _SEARCH)
    try:
        for name in path.parts[1:]:
            if create:
                with contextlib.suppress(FileExistsError):
                    _make_directory(name, descriptor)
            inner = os.open(name, _SEARCH, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _make_directory(name: str, parent: int) -> None:
    # Looking first spares a read-only file system the pointless attempt.
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=parent)


def _read_bytes(directory: int, path: Path) -> tuple[bytes, os.stat_result]:
    # A FIFO opened for reading would wait for its writer, hence O_NONBLOCK.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path.name or ".", flags, dir_fd=directory)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise ToolError(f"{path} is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise ToolError(f"{path} is not a regular file")
        if status.st_size > MAX_TEXT_BYTES:
            raise ToolError(
                f"{path} has {status.st_size} bytes, more than the limit of {MAX_TEXT_BYTES}; "
                "search it with grep_search or cut a part out with a shell command"
            )
        return file.read(), status


def _write_temporary(directory: int, data: bytes, like: os.stat_result | None) -> str:
    """A new file beside the target, complete and on disk. Returns its name."""
    name = f".qcode-tmp-{os.getpid()}-{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = 0o666 if like is None else 0o600
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            if like is not None:
                _copy_ownership(file.fileno(), like)
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise
    return name


def _copy_ownership(descriptor: int, like: os.stat_result) -> None:
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def _create(directory: int, name: str, data: bytes, *, exclusive: bool) -> os.stat_result:
    temporary = _write_temporary(directory, data, like=None)
    try:
        if exclusive:
            _link(directory, temporary, name)
        else:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    _sync(directory)
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _link(directory: int, temporary: str, name: str) -> None:
    """Rename that never replaces: a hard link, then the temporary name removed."""
    try:
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        raise FileChanged(f"{name} exists by now; read it first") from None
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
            raise
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    else:
        os.unlink(temporary, dir_fd=directory)


def _replace(
    directory: int, name: str, old: bytes, status: os.stat_result, data: bytes
) -> os.stat_result:
    temporary = _write_temporary(directory, data, like=status)
    try:
        if _read_bytes(directory, Path(name))[0] != old:
            raise FileChanged(f"{name} changed on disk; read it again")
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=directory)
        raise
    _sync(directory)
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _overwrite(directory: int, name: str, old: bytes, data: bytes) -> os.stat_result:
    """Rewrite in place, since a rename would part this name from the file's other names. A copy of
    the old bytes stands beside it until the new ones are on disk."""
    backup = _write_temporary(directory, old, like=None)
    try:
        _write_in_place(directory, name, data)
    except BaseException:
        _write_in_place(directory, name, old)
        raise
    finally:
        os.unlink(backup, dir_fd=directory)
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _write_in_place(directory: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=directory), "wb") as file:  # noqa: PTH123
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: int) -> None:
    """Put the rename itself on disk. Some file systems cannot sync a directory; then it is in the
    hands of the system."""
    with contextlib.suppress(OSError):
        descriptor = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
