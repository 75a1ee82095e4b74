"""The only writer of files. Every file appears whole or not at all."""

import errno
import json
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nullspace_cli.engine.errors import ArtifactError, DataError, UnfitNameError
from nullspace_cli.engine.files.addresses import deliver, is_address, is_there
from nullspace_cli.engine.files.paths import is_folder, is_stream, kind_of, reason_of, status

T = TypeVar("T")

TEMPORARY, PART, LOCK = ".vitnull-{}.{}", "part", "lock"
"""Names of what is there while a file is made; they do not grow with its name, so that they fit wherever that fits."""
_LEFT_OVER = re.compile(rf"\.vitnull-\w+\.({PART}|{LOCK})")
OLD = 24 * 60 * 60
"""Seconds after which nobody is at work on such a file any more: its process was killed, or the power failed."""


def check_output(path: Path, *, force: bool) -> None:
    """Fail now rather than after the slow work: the folder is there and writable, and nothing would be lost.

    Raises:
        UnfitNameError: `path` is a folder, a disk or a socket, or no name for a file.
        ArtifactError: it exists and `force` is not given, or could not be written.
    """
    try:
        if is_address(path):
            _require_new(path, force)
            return
        destination = _destination(path, force)
        if destination is None:
            return
        folder = destination.parent
        if not is_folder(folder):
            raise ArtifactError(f"Cannot write {path}: the folder {folder} does not exist. Create it first.")
        with tempfile.TemporaryFile(dir=folder):
            pass
        _clean(folder.absolute())
    except OSError as error:
        raise _unwritable(path, error) from error


@cache
def _clean(folder: Path) -> None:
    """Remove what processes that were killed have left half-written in a folder; looked for once."""
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if _LEFT_OVER.fullmatch(entry.name):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD:
                        Path(entry.path).unlink()


def make_folder(path: Path) -> Path:
    """Create an output folder and its parents, if need be; at an address they come with what is written there.

    Raises:
        ArtifactError: it cannot be created, or a file of that name is in the way.
    """
    try:
        if not is_address(path):
            path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot create the folder {path}: {reason_of(error)}. Name another.") from error
    return path


def _destination(path: Path, force: bool) -> Path | None:
    """The file that is to be replaced or made, at the end of links, as with `cp`; None for a stream, written as it is.

    Raises:
        ArtifactError: something is there that must not be overwritten.
        OSError: the path cannot be looked up.
    """
    found = status(path)
    if found and stat.S_ISDIR(found.st_mode):
        raise UnfitNameError(f"Cannot write {path}: it is a folder. Give the name of a file.")
    if found and is_stream(path):
        return None
    if found and not stat.S_ISREG(found.st_mode):
        raise UnfitNameError(f"Cannot write {path}: it is {kind_of(found)}. Give the name of a file.")
    if os.path.lexists(path) and not force:
        raise _already_there(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    advice = {
        errno.ENAMETOOLONG: "Give it a shorter name",
        errno.ENOSPC: "Make room, or choose another folder",
        errno.EDQUOT: "Make room, or choose another folder",
        errno.ENXIO: "It is a pipe that nobody reads from: start its reader first",
    }
    choice = advice.get(error.errno or 0, "Choose another name or folder")
    kind = UnfitNameError if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL) else ArtifactError
    return kind(f"Cannot write {path}: {reason_of(error)}. {choice}.")


UNFINISHED: set[Path] = set()
"""Temporary files and locks that there are."""
_BEGINNING = threading.Lock()


def give_up() -> None:
    """Remove what threads have half-written, and let them begin no more: for a process that ends without them."""
    _BEGINNING.acquire()  # for good
    for temporary in list(UNFINISHED):
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _replacing(path: Path, force: bool) -> Iterator[Path]:
    """A temporary name beside `path`; moved into place when the block ends well, removed when it does not.

    What it holds is on the disk before it gets its name, and the name before this returns: whenever the power fails,
    the old file or the new one is there, whole.
    """
    temporary = path.with_name(TEMPORARY.format(secrets.token_hex(6), PART))
    with _BEGINNING:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # with the permissions of the umask
        UNFINISHED.add(temporary)
    try:
        yield temporary
        _sync(temporary)
        if force:
            if old := status(path):
                temporary.chmod(stat.S_IMODE(old.st_mode) & 0o777)  # whoever could not read it still cannot
            temporary.replace(path)
        else:
            _move_without_overwriting(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        UNFINISHED.discard(temporary)
    with suppress(OSError):  # not every system lets a folder be opened
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; a file system that knows no such thing goes without."""
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(file)


def _move_without_overwriting(temporary: Path, path: Path) -> None:
    """A hard link fails where a rename would silently overwrite what another process has just finished."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links: claim the name, then fill it.
        path.touch(exist_ok=False)
        temporary.replace(path)


class FilesTogether:
    """Files of one piece of work: all get their names when the block ends well, and none is left when it does not.

    At the end of a link it is the link's target that is replaced; an existing file's permissions stay. Into a device
    or a pipe the result is written, `force` or not: there is nothing to replace.
    """

    def __init__(self, *, force: bool = False) -> None:
        self.force, self._stack = force, ExitStack()

    def __enter__(self) -> "FilesTogether":
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, path: Path, write: Callable[[Path], T]) -> T:
        """Call `write` on a temporary name, for a file that will be called `path`; what it returned.

        Raises:
            ArtifactError: the file exists (and `force` is not given), or the system would not write it, now or at the
                end of the block.
        """
        check_output(path, force=self.force)
        temporary = self._stack.enter_context(_pending(path, self.force))
        try:
            return write(temporary)
        except OSError as error:
            raise _unwritable(path, error) from error


@contextmanager
def _pending(path: Path, force: bool) -> Iterator[Path]:
    """A temporary name for what is to be at `path` when the block ends well."""
    if is_address(path):
        with _delivering(path, force) as temporary:
            yield temporary
        return
    try:
        destination = _destination(path, force)
        with _streaming(path) if destination is None else _replacing(destination, force) as temporary:
            yield temporary
    except FileExistsError as error:
        raise ArtifactError(f"{path} was written by another process meanwhile; it was left as it is.") from error
    except OSError as error:
        raise _unwritable(path, error) from error


def write_file(path: Path, write: Callable[[Path], object], *, force: bool = False) -> Path:
    """Call `write` on a temporary name and move the result to `path`: `FilesTogether` of one file.

    Raises:
        ArtifactError: the file exists (and `force` is not given), or the system would not write it.
    """
    with FilesTogether(force=force) as files:
        files.write(path, write)
    return path


@contextmanager
def _delivering(path: Path, force: bool) -> Iterator[Path]:
    """Make a file here, and copy it to its address once it is whole."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "result").with_suffix(path.suffix)
        yield file
        _require_new(path, force)
        try:
            deliver(file, path)
        except DataError as error:
            raise ArtifactError(*error.args, hint=error.hint) from error


def _require_new(path: Path, force: bool) -> None:
    """See that nothing at an address is overwritten that must not be."""
    if not force and is_there(path):
        raise _already_there(path)


def _already_there(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} exists already.", hint="Use `overwrite=True` to replace it, or another name.")


@contextmanager
def _streaming(path: Path) -> Iterator[Path]:
    """Write a whole result into a device or a pipe, once there is one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result")
        yield file
        # A pipe that nobody reads from would else keep us waiting for ever.
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.read_bytes())


def write_bytes(path: Path, data: bytes, *, force: bool = False) -> Path:
    return write_file(path, lambda temporary: temporary.write_bytes(data), force=force)


def write_json(path: Path, document: Any, *, force: bool = False) -> Path:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), force=force)
