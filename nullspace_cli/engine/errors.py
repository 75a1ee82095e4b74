"""Every error that is the user's to mend. Anything else that is raised is a bug and keeps its traceback."""

import errno
import re
from typing import Any

_NO_MEMORY = re.compile(
    r"out of memory|(not enough|insufficient|no more) memory|(can(no|')t|could not|unable to|failed to) allocate"
    r"|bad[_ ]alloc|_ALLOC(ATION)?_FAILED|cudaErrorMemoryAllocation|paging file is too small"
    r"|CUBLAS_STATUS_NOT_INITIALIZED.{0,40}create"  # where cuBLAS found no room for itself
    r"|could not (create a (primitive(?! desc)|memory)|execute a primitive)",  # oneDNN, whose scratch found none
    re.IGNORECASE | re.DOTALL,
)
"""What torch's allocators, CUDA's libraries, MAGMA, MKL, oneDNN and the system say where memory is short."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, whoever says so: only Python and torch's own allocators have a type for it."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    # A SafetensorError, of a file that cannot be mapped, is an Exception and no more.
    foreign = isinstance(error, RuntimeError | OSError) or type(error).__module__.startswith("safetensors")
    return foreign and _NO_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to quote in one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class VitnullError(Exception):
    """Something could not be done.

    The message says what failed and where, and what was expected instead; the `hint`, what to do. `exit_code` is what
    the command line ends with; it is part of the contract that scripts rely on.

    Args:
        hint: names parameters as the library does, in backticks, as `overwrite=True`; the command line says --force.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.args[0]), self.hint)))


class UsageError(VitnullError):
    """The request itself makes no sense: an option's value, or two options that exclude each other."""

    exit_code = 2


class ModelError(VitnullError):
    """A model could not be named, built, or given its weights."""


class ImageError(VitnullError):
    """An image could not be read or is of a kind that cannot be converted faithfully."""


class FontError(VitnullError):
    """A font could not be read, or is of a kind that letters no mark."""


class ArtifactError(VitnullError):
    """A file of ours could not be read or written, or does not belong to what it is used with."""


class UnfitNameError(ArtifactError):
    """A name under which no file can be made: too long, a folder's or a socket's, or a link in a circle."""


class DataError(VitnullError):
    """A data folder is missing, empty, or not laid out as a data set."""


class MemoryShortError(VitnullError):
    """Something does not fit into memory, not even by itself."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(
            f"{what} does not fit into memory ({reason}).",
            hint='Try `workers=1`, `device="cpu"`, a smaller `batch_size`, a smaller image or a smaller model.',
        )


class NoNullspaceError(VitnullError):
    """The model has no exact nullspace. `report` holds what was found out on the way, for the JSON document."""

    exit_code = 5

    def __init__(self, message: str, report: dict[str, Any] | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.report = report or {}
