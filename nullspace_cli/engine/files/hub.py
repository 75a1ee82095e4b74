"""The model hub's network: used when it is there, done without quickly and quietly when it is not."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit

from nullspace_cli.engine.runtime.process import InTurns

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@contextmanager
def _client(cut_off: bool) -> Iterator[None]:
    """The hub's client, quiet, and if `cut_off` with its cache alone. It has one setting for the process."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    level, was_offline = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = was_offline or cut_off
    try:
        yield
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = was_offline


_IN_TURNS = InTurns(_client)


def hub_access(*, offline: bool) -> AbstractContextManager[None]:
    """Let the hub's client look into its cache alone if `offline`, or if no connection to the hub opens.

    Its own retries take the better part of a minute, and say so line by line. Threads that want it otherwise wait.
    """
    from huggingface_hub import constants

    return _IN_TURNS(offline or (not constants.HF_HUB_OFFLINE and not _reachable(constants.ENDPOINT)))


def _reachable(endpoint: str, timeout: float = 5.0) -> bool:
    """Whether a connection to the hub opens; behind a proxy that is for the hub's own client to find out."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout).close()
    except OSError:
        return False
    return True
