"""Two readings of one file: what a network is given of it, and what people see."""

import threading
from collections.abc import Callable
from typing import Literal, Protocol, get_args

Reading = Literal["timm", "shown"]
"""What a network is given of a file. "timm": what the loaders of timm, torchvision and others give, by Pillow's
`Image.open(file).convert("RGB")`: pixels as they are stored, whichever way is up, without alpha. "shown": what people
see, upright and on white."""

READINGS: tuple[Reading, ...] = get_args(Reading)


class Read(Protocol):
    """What has been read of a file."""

    @property
    def difference(self) -> str | None:
        """Why a viewer shows another picture than timm's loader gives, as a clause; None where it does not."""
        ...


class DifferenceNotice:
    """Tells once of a run that a file's two readings differ; threads may share it."""

    def __init__(self, notice: Callable[[str], None], reading: Reading) -> None:
        self._notice, self._reading, self._lock, self._told = notice, reading, threading.Lock(), False

    def __call__(self, name: str, read: Read) -> None:
        """Look at what was read of the file of this name."""
        if self._told or read.difference is None or not self._first():
            return
        if self._reading == "timm":
            what = "It is read here as timm's loader reads it, pixels as they are stored"
            hint = 'What people see is read with `reading="shown"`.'
        else:
            what = "It is read here as people see it"
            hint = 'What timm\'s loader gives is read with `reading="timm"`.'
        self._notice(f"{name} {read.difference}. {what}, and so are others. {hint}")

    def _first(self) -> bool:
        with self._lock:
            told, self._told = self._told, True
        return not told
