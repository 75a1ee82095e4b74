"""What is prepared for one size of picture, and kept for the last few sizes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

SIZES_KEPT = 4
"""Image sizes whose preparations are kept: a folder of photos has landscapes and portraits."""

T = TypeVar("T")


class Kept(Generic[T]):
    """Things by their keys, each made once for the last few; threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > SIZES_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]
