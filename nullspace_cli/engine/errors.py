"""Every error that is the user's to mend. Anything else that is raised is a bug and keeps its traceback."""

from typing import Any


def first_line(error: Exception) -> str:
    """What another library's error says, short enough to quote in one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class VitnullError(Exception):
    """Something could not be done.

    The message says what failed and where, what was expected instead, and what to do. `exit_code` is what the command
    line ends with; it is part of the contract that scripts rely on.
    """

    exit_code = 1


class UsageError(VitnullError):
    """The request itself makes no sense: an option's value, or two options that exclude each other."""

    exit_code = 2


class ModelError(VitnullError):
    """A model could not be named, built, or given its weights."""


class ImageError(VitnullError):
    """An image could not be read or is of a kind that cannot be converted faithfully."""


class ArtifactError(VitnullError):
    """A file of ours could not be read or written, or does not belong to what it is used with."""


class DataError(VitnullError):
    """A data folder is missing, empty, or not laid out as a data set."""


class NoNullspaceError(VitnullError):
    """The model has no exact nullspace. `report` holds what was found out on the way, for the JSON document."""

    exit_code = 5

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}
