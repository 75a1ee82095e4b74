"""Bytes from files that others made: of regular files alone, never more than a bound, never waiting."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from nullspace_cli.engine.errors import ArtifactError, VitnullError
from nullspace_cli.engine.files.addresses import is_address
from nullspace_cli.engine.files.paths import kind_of, reason_of

MIB = 2**20


def require_regular(path: Path, expected: str, error: type[VitnullError] = ArtifactError) -> int:
    """The size of a file in bytes, without opening it: a pipe would wait for ever, a device would never end.

    Args:
        expected: what the file should be, for the message: "a basis that vitnull wrote".

    Raises:
        error: there is no such file, or it is a folder, a pipe, a socket or a device.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if is_address(path):
            raise error(
                f"{path} is an address, and this is read from the disk alone: copy it here. Expected {expected}."
            ) from None
        raise error(f"There is no file {path}. Expected {expected}.") from None
    except (OSError, ValueError) as failure:  # a loop of links, no permission; a name with a null character
        raise error(f"Cannot read {path}: {reason_of(failure)}. Expected {expected}.") from failure
    _refuse_irregular(path, found, expected, error)
    return found.st_size


def open_regular(path: Path, expected: str, error: type[VitnullError] = ArtifactError) -> BinaryIO:
    """A regular file, open to be read.

    Raises:
        error: as `require_regular`, or it may not be read.
    """
    require_regular(path, expected, error)
    try:
        # What the name stands for may have changed since: opening must not wait for somebody to write into a pipe.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as failure:
        raise error(f"Cannot read {path}: {reason_of(failure)}. Expected {expected}.") from failure
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_irregular(path, os.fstat(descriptor), expected, error)
    except VitnullError:
        file.close()
        raise
    return file


def read_bounded(path: Path, limit: int, expected: str, error: type[VitnullError] = ArtifactError) -> bytes:
    """All bytes of a regular file.

    Raises:
        error: as `open_regular`, or there are more than `limit` bytes.
    """
    with open_regular(path, expected, error) as file:
        try:
            data = file.read(limit + 1)
        except OSError as failure:
            raise error(f"Cannot read {path}: {reason_of(failure)}. Expected {expected}.") from failure
    if len(data) > limit:
        raise error(f"{path} is larger than {limit // MIB} MiB, the most that is read. Expected {expected}.")
    return data


def _refuse_irregular(path: Path, found: os.stat_result, expected: str, error: type[VitnullError]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path} is {kind_of(found)}. Expected {expected}.")
