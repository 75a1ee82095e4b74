"""The model hub's network: used when it is there, done without quickly and quietly when it is not.

Why something could not be had of it is put into words here: no access, no such thing, no answer, a cache with holes.
"""

import http.client
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from nullspace_cli.engine.errors import ModelError, first_line
from nullspace_cli.engine.runtime.process import InTurns

PACKAGES = (
    "huggingface_hub",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "requests",
    "urllib3",
    "safetensors_rust",
    "safetensors",
)
"""Whose errors those of fetching are, beside Python's own OSError."""
CUT_OFF = ("onsistency check failed", "peer closed connection", "IncompleteRead", "should be of size")
OTHERWISE = "give the weights as `checkpoint`, use local-dir:PATH, or try the embedded models: demo, demo-cnn."
SILENCE_SECONDS = 30.0
"""After which a connection without a word is given up, where the hub's client has no limit of its own."""
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


CutOff = Literal["", "asked for", "no connection", "no answer"]
"""Why the hub is not asked, if it is not."""
_cut_off: CutOff = ""


@contextmanager
def _client(why: CutOff) -> Iterator[None]:
    """The hub's client, quiet, and where it is cut off with its cache alone. It has one setting for the process."""
    global _cut_off  # beside the client's own setting, which does not say why
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, was_offline, limit = logger.level, constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = was_offline or bool(why)
    socket.setdefaulttimeout(limit or SILENCE_SECONDS)  # for weights that timm fetches from elsewhere
    _cut_off = why
    try:
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = was_offline
        socket.setdefaulttimeout(limit)
        _cut_off = ""


_IN_TURNS = InTurns(_client)


def hub_access(*, offline: bool) -> AbstractContextManager[None]:
    """Let the hub's client look into its cache alone if `offline`, or if the hub does not answer.

    Its own retries take minutes, and say so line by line. Threads that want it otherwise wait.
    """
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return _IN_TURNS("asked for" if offline else "")
    return _IN_TURNS(_asked(constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT))


def _asked(endpoint: str, patience: float, timeout: float = 5.0) -> CutOff:
    """Whether the hub answers, whatever it says; behind a proxy that is for its own client to find out.

    Args:
        patience: seconds in which it has to say something, on a connection that is open.
        timeout: seconds in which a connection has to open.
    """
    if any(os.environ.get(name) for name in PROXIES):
        return ""
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), timeout):
            pass
    except OSError:
        return "no connection"
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", port, timeout=patience)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException):
        pass  # a certificate of a company's own, say, which the hub's client may know
    finally:
        connection.close()
    return ""


def fetch(repository: str, file: str, cache: str | None) -> Path | None:
    """A file of the hub's, in its cache; None where the repository has none of that name. To be called in `hub_access`.

    Args:
        repository: "owner/name", or "owner/name@revision".
        cache: the folder of the cache, if not the client's own.

    Raises:
        Exception: the client's, of whatever kind, where it cannot be had or known.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(name, file, revision=revision or None, cache_dir=cache))
    except LocalEntryNotFoundError:
        if try_to_load_from_cache(name, file, cache_dir=cache, revision=revision or None) is _CACHED_NO_EXIST:
            return None
        raise
    except EntryNotFoundError:
        return None


def is_failed_fetch(error: BaseException) -> bool:
    """Whether an error is of fetching something, or of reading what has been fetched."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in PACKAGES


def failed_fetch(name: str, error: BaseException, repository: str | None, cache: str | None) -> ModelError:
    """The error for a model that could not be fetched, with its cause and what to do.

    Args:
        repository: "org/name" on the hub, if it is there that the model is.
        cache: the folder that stands in for that of the hub's client.
    """
    from huggingface_hub import constants, errors

    causes = list(_causes(error))
    status = next((code for code in map(_status, causes) if code is not None), None)
    where = f"{repository} at {constants.ENDPOINT}" if repository else "where they are published"
    log_in = f"Log in (hf auth login, or HF_TOKEN=...) or ask its owner for access; or {OTHERWISE}"

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    def unfetched(why: str, hint: str) -> ModelError:
        return ModelError(f"The weights of {name} could not be fetched{why}.", hint=hint)

    if caused_by(errors.GatedRepoError):
        return unfetched(f": {where} is gated, and not open to everybody", log_in)
    if caused_by(errors.RevisionNotFoundError):
        return unfetched(f": {where} has no such revision", "Check what stands behind the @.")
    if caused_by(errors.RepositoryNotFoundError):
        return unfetched(f": there is no {where}, or it is private", f"Check the name. {log_in}")
    if caused_by(errors.EntryNotFoundError) and not caused_by(errors.LocalEntryNotFoundError):
        answers = (getattr(cause, "response", None) for cause in causes)
        lacking = next((str(answer.url) for answer in answers if answer is not None), "its weights")
        return unfetched(f": {where} lacks {lacking}", f"Check the name, or {OTHERWISE}")
    if status in (401, 403):
        return unfetched(f": {where} refuses access (HTTP {status})", log_in)
    if status is not None:
        return unfetched(f": {where} answers HTTP {status}", f"Try again later, or {OTHERWISE}")
    if _cut_off == "no answer" or any(
        "Timeout" in type(cause).__name__ or isinstance(cause, TimeoutError) for cause in causes
    ):
        return unfetched(f": {where} does not answer", f"Try again later, or {OTHERWISE}")
    if holes := _holes(repository, cache):
        again = f"Delete {holes[0]} and fetch it again online, or {OTHERWISE}"
        return unfetched(f", and the cache is broken: the file that {holes[0]} links to is missing", again)
    if type(error).__module__.startswith("safetensors"):
        folder = _folder(repository, cache) if repository else cache
        return ModelError(
            f"The cached weights of {name} are damaged ({first_line(error)}).",
            hint=f"Delete {folder} and fetch them again online, or {OTHERWISE}",
        )
    if any(words in str(cause) for cause in causes for words in CUT_OFF):
        return unfetched(f": the download from {where} was cut off", f"Try again, or {OTHERWISE}")
    return unfetched(f", nor are they in the local cache ({first_line(error)})", f"Go online, or {OTHERWISE}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error is of: the hub client's, or Python's own."""
    found = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
    return found if isinstance(found, int) and found >= 400 else None


def _folder(repository: str, cache: str | None) -> Path:
    """Where the hub's client keeps a repository."""
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE) / f"models--{repository.partition('@')[0].replace('/', '--')}"


def _holes(repository: str | None, cache: str | None) -> list[Path]:
    """What is named in the cache of a repository, and is not there."""
    if not repository:
        return []
    snapshots = _folder(repository, cache) / "snapshots"
    return sorted(path for path in snapshots.glob("*/**/*") if path.is_symlink() and not path.exists())
