"""What is at a path, and whether two paths are one file; no name that a user can give ends in a traceback here."""

import errno
import os
import stat
import tempfile
from collections.abc import Hashable
from pathlib import Path

from nullspace_cli.engine.files.addresses import is_address, is_folder_there, is_there

NO_FILE = "there is no such file"


def status(path: Path) -> os.stat_result | None:
    """What the system says of a path, links followed; None where there is nothing, behind a dangling link too.

    Raises:
        OSError: it cannot be looked up: the name is too long or not a name, links go round in a circle, a folder on the
            way may not be entered.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RuntimeError) as error:  # a NUL, or a character that the system's names cannot have
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", str(path)) from error


def kind_of(found: os.stat_result) -> str:
    """In words, as "it is ..."."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a folder",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a disk",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(found.st_mode), "no regular file")


def reason_of(error: Exception) -> str:
    """Why the system did not do something with a file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def exists(path: Path) -> bool:
    """Whether there is something that can be looked up, here or at an address."""
    if is_address(path):
        return is_there(path)
    try:
        return status(path) is not None
    except OSError:
        return False


def is_stream(path: Path) -> bool:
    """Whether what is written there goes somewhere else, as into /dev/null or a pipe, and cannot be read back."""
    try:
        found = status(path)
    except OSError:
        return False
    return found is not None and (stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode))


def is_folder(path: Path) -> bool:
    """Whether there is a folder that can be looked up, here or at an address."""
    if is_address(path):
        return is_folder_there(path)
    try:
        found = status(path)
    except OSError:
        return False
    return found is not None and stat.S_ISDIR(found.st_mode)


def why_unreadable(path: Path) -> str | None:
    """Why a path names no regular file that one could read, to follow "Cannot read x: "; None where it does.

    Whatever else there may be (a pipe, a device, a socket) could keep a reader waiting for ever, or never end. What has
    an address shows when it is fetched.
    """
    if is_address(path):
        return None
    try:
        found = status(path)
    except OSError as error:
        return reason_of(error)
    if found is None:
        return NO_FILE
    return None if stat.S_ISREG(found.st_mode) else f"it is {kind_of(found)}, not a regular file"


def identity(path: Path) -> Hashable:
    """What two paths have in common exactly if they are one file: by links of either kind, or by the same new name."""
    if is_address(path):
        return str(path)
    try:
        found = status(path)
    except OSError:
        return str(path)
    return (found.st_dev, found.st_ino) if found else real(path)


def real(path: Path) -> str:
    """The path without links, as far as it can be followed: Path.resolve fails where they go round in a circle."""
    if is_address(path):
        return str(path)
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def ignores_case(folder: Path) -> bool:
    """Whether a.png and A.png would be one file there, as is usual outside Linux."""
    if is_address(folder):
        return False
    while not is_folder(folder) and folder != folder.parent:
        folder = folder.parent  # where it would be made
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".vitnull-", suffix=".part") as file:
            lower = Path(file.name)
            return exists(lower.with_name(lower.name.swapcase()))
    except OSError:
        return False


def absolute(path: Path) -> Path:
    """The path from the root; "a/../b" is b, and links stay."""
    return path if is_address(path) else Path(os.path.abspath(path))  # noqa: PTH100
