"""Which file a process is at work on, so that others that were set to the same work leave it to that one."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nullspace_cli.engine.files.writing import LOCK, TEMPORARY, UNFINISHED

try:
    import fcntl
except ImportError:  # pragma: no cover - a system without
    fcntl = None  # type: ignore[assignment]


@contextmanager
def at_work_on(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone is, until the block ends, at work on the file that will be at `path`.

    Every process is told so where there are no locks, as on some network file systems: they are here to save work, not
    to keep files whole. A process that ends, even if it is killed, drops its locks; what is left of them, empty files,
    the next one takes over.

    Args:
        wait: for whoever is, and then be it.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    file = path.with_name(TEMPORARY.format(name, LOCK))
    try:
        lock = _locked(file, wait)
    except OSError:
        yield True
        return
    if lock is None:
        yield False
        return
    UNFINISHED.add(file)  # whoever is interrupted removes it, too
    try:
        yield True
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(lock)
        UNFINISHED.discard(file)


def _locked(file: Path, wait: bool) -> int | None:
    """The descriptor that holds the lock; None where another one does.

    Raises:
        OSError: there are no locks here.
    """
    if fcntl is None:  # pragma: no cover
        raise OSError
    while True:
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_still(descriptor, file):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has removed the file: another may have made it anew


def _is_still(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
