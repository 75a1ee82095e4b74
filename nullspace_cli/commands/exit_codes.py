"""What exit codes mean, and where one is kept that a launcher does not pass on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIGNALS = 128
"""Codes from here on are of processes that were ended from without."""
INTERRUPTED, TERMINATED = SIGNALS + signal.SIGINT, SIGNALS + signal.SIGTERM

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage",
    3: "a check failed",
    4: "some inputs failed",
    5: "no exact nullspace",
    INTERRUPTED: "interrupted",
    TERMINATED: "terminated",
}


@contextmanager
def exit_code_on_file() -> Iterator[None]:
    """Write the code that this process ends with, if it is not 0, where torchrun looks for it.

    torchrun itself ends with 1 whatever its processes end with. It names for each a file, by TORCHELASTIC_ERROR_FILE;
    what the first that failed has written into its own, torchrun shows, and copies into the file that this variable
    names for torchrun.
    """
    try:
        yield
    except SystemExit as end:
        _write(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except BaseException:  # a bug, whose traceback Python will show
        _write(1)
        raise


def _write(code: int) -> None:
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not name or not 0 < code < SIGNALS:
        return
    message = f"vitnull ended with exit code {code}: {EXIT_CODES.get(code, 'failed')}. What it said is on stderr."
    details = {"py_callstack": message, "timestamp": str(int(time.time()))}
    text = json.dumps({"message": {"message": message, "errorCode": code, "extraInfo": details}})

    from nullspace_cli.engine.errors import ArtifactError
    from nullspace_cli.engine.files.writing import write_bytes

    with suppress(ArtifactError):  # torchrun then says that there is none
        write_bytes(Path(name), text.encode(), force=True)
