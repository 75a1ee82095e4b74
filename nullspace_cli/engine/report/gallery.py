"""The pictures of many images, worst first, as far as a page has room for them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.files.spool import Place, Spool
from nullspace_cli.engine.report.pictures import Encoded, View
from nullspace_cli.engine.runtime.distributed import Ranks

THUMBNAILS = 0.25
"""The share of a page's room that is for thumbnails."""


class Entry(NamedTuple):
    """The pictures of one image.

    Attributes:
        key: by which a record finds them: the file's name.
        badness: by which images are sorted, the worst first.
        thumbnail: None where it is left out.
        views: none where they are left out.
    """

    key: str
    badness: tuple[float, ...]
    thumbnail: Encoded | None
    views: tuple[View, ...]

    def pictures(self) -> list[Encoded]:
        """All of them, in a fixed order; see `with_data`."""
        return [*([self.thumbnail] if self.thumbnail else ()), *(one for view in self.views for one in view.pictures)]

    def with_data(self, data: Iterable[bytes]) -> "Entry":
        """The same with other bytes."""
        left = iter(data)
        thumb = self.thumbnail and self.thumbnail._replace(data=next(left))
        views = [
            view._replace(pictures=tuple(one._replace(data=next(left)) for one in view.pictures)) for view in self.views
        ]
        return self._replace(thumbnail=thumb, views=tuple(views))


_Order = tuple[tuple[float, ...], str]


@dataclass
class _Held:
    """An entry whose pictures lie in the spool."""

    entry: Entry
    places: list[Place]

    @property
    def order(self) -> _Order:
        return tuple(-value for value in self.entry.badness), self.entry.key

    @property
    def sizes(self) -> tuple[int, int]:
        """Characters of a page that thumbnail and views take."""
        sizes = [-(-place.length // 3) * 4 for place in self.places]
        first = 1 if self.entry.thumbnail else 0
        return sum(sizes[:first]), sum(sizes[first:])

    def cut(self, thumbnail: bool, views: bool) -> None:
        """Leave out what is not wanted."""
        first = 1 if self.entry.thumbnail else 0
        self.places = [*(self.places[:first] if thumbnail else ()), *(self.places[first:] if views else ())]
        self.entry = self.entry._replace(
            thumbnail=self.entry.thumbnail if thumbnail else None, views=self.entry.views if views else ()
        )


class Gallery:
    """Pictures by image, kept on the disk as they come, from whatever thread; of too many the worst images' stay.

    Which stay does not depend on the order in which they come.
    """

    def __init__(self, folder: Path, limit: int, called: Callable[[str], str] = str) -> None:
        """
        Args:
            folder: on whose disk they are kept until the page is written.
            limit: bytes that they may take in the page.
            called: what an image is called by which its record will be found, given the name of its file.

        Raises:
            ArtifactError: nothing can be written there.
        """
        self._limit, self._spool, self._held, self._lock = limit, Spool(folder), list[_Held](), threading.Lock()
        self._called = called
        self._full: list[list[_Order]] = [[], []]  # from which entry on thumbnails, and views, have no room, if any

    def add(self, key: str, badness: Sequence[float | None], thumbnail: Encoded | None, views: Sequence[View]) -> None:
        """Take in an image's pictures; what is unknown of its badness is 0.

        Raises:
            ArtifactError: the disk is full, or fails.
        """
        self.take(Entry(self._called(key), tuple(float(value or 0) for value in badness), thumbnail, tuple(views)))

    def take(self, entry: Entry) -> None:
        """The same."""
        with self._lock:
            places = [self._spool.add(picture.data) for picture in entry.pictures()]
            self._held.append(_Held(entry.with_data(b"" for _ in places), places))
            if self._spool.size > 2 * self._limit:
                self._prune()

    def gather(self, ranks: Ranks) -> None:
        """Take in what the other processes have, in the first of them, which has the room of all from now on."""
        if ranks.world == 1:
            return
        parts = ranks.gather(list(self))
        self._limit, self._full = self._limit * ranks.world, [[], []]
        for entry in (entry for part in parts[1:] if ranks.first for entry in part):
            self.take(entry)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, the worst first, without the pictures that have no room; read one after the other."""
        for held in self._sorted():
            yield held.entry.with_data(self._spool.read(place) for place in held.places)

    def with_views(self) -> set[str]:
        """The keys of those that have room for their views."""
        return {held.entry.key for held in self._sorted() if held.entry.views}

    def _sorted(self) -> list[_Held]:
        with self._lock:
            self._prune()
            return list(self._held)

    def _prune(self) -> None:
        """Leave out the pictures of all images but the worst, as far as they have room.

        Where one does not fit, all that come after it go as well: more images move none of them forward, so that what
        is left out now would be left out at the end.
        """
        self._held.sort(key=lambda held: held.order)
        for kind, share in enumerate((THUMBNAILS, 1 - THUMBNAILS)):
            sizes = accumulate(held.sizes[kind] for held in self._held)
            full = (held.order for held, size in zip(self._held, sizes, strict=True) if size > share * self._limit)
            self._full[kind] = sorted([*self._full[kind], *islice(full, 1)])[:1]
        for held in self._held:
            held.cut(*(not full or held.order < full[0] for full in self._full))
        if self._spool.size > self._limit:
            moved = iter(self._spool.keep(place for held in self._held for place in held.places))
            for held in self._held:
                held.places = [next(moved) for _ in held.places]
