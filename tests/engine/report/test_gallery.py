"""Pictures by image: the worst stay, whatever the order in which they come, and the disk is not filled."""

import random
from pathlib import Path

import pytest

from nullspace_cli.engine.files.spool import Place, Spool
from nullspace_cli.engine.report.gallery import Entry, Gallery
from nullspace_cli.engine.report.pictures import Encoded, View
from nullspace_cli.engine.runtime.distributed import Ranks

LIMIT = 4000


def picture(number: int, length: int) -> Encoded:
    return Encoded("one", (1, 1), "png", bytes([number % 251]) * length)


def fill(gallery: Gallery, numbers: list[int]) -> None:
    """Images whose badness is their number, each of 300 bytes and a thumbnail of 30."""
    for number in numbers:
        view = View("a", "", (picture(number, 150), picture(number + 1, 150)))
        gallery.add(f"{number:03}", (number,), picture(number, 30), [view])


def described(entries: list[Entry]) -> list[tuple[str, bool, bool]]:
    return [(entry.key, entry.thumbnail is not None, bool(entry.views)) for entry in entries]


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_stay_whatever_the_order(tmp_path: Path, seed: int) -> None:
    numbers = list(range(100))
    random.Random(seed).shuffle(numbers)  # noqa: S311 - nothing secret
    gallery = Gallery(tmp_path, LIMIT)
    fill(gallery, numbers)
    entries = list(gallery)
    # In a page, 3 bytes are 4 letters: of 4000 a quarter is for thumbnails of 40, the rest for two pictures of 200.
    assert described(entries) == [(f"{n:03}", n >= 75, n >= 93) for n in reversed(range(100))]
    for entry in entries[:7]:
        number = int(entry.key)
        assert entry.pictures() == [picture(number, 30), picture(number, 150), picture(number + 1, 150)]
    assert gallery.with_views() == {f"{n:03}" for n in range(93, 100)}


def test_one_that_does_not_fit_bars_those_after_it(tmp_path: Path) -> None:
    """Else it would depend on when room was made whether they are there."""
    gallery = Gallery(tmp_path, LIMIT)
    gallery.add("large", (2,), None, [View("a", "", (picture(0, 10_000),))])
    assert described(list(gallery)) == [("large", False, False)]
    gallery.add("small", (1,), None, [View("a", "", (picture(0, 3),))])
    gallery.add("worse", (3,), None, [View("a", "", (picture(0, 3),))])
    assert described(list(gallery)) == [("worse", False, True), ("large", False, False), ("small", False, False)]


def test_the_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, add = [0], Spool.add

    def noted(spool: Spool, data: bytes) -> Place:
        sizes.append(spool.size)
        return add(spool, data)

    monkeypatch.setattr(Spool, "add", noted)
    gallery = Gallery(tmp_path, LIMIT)
    fill(gallery, list(range(1000)))
    assert max(sizes) < 2.2 * LIMIT
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_processes_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, each has room for three images' pictures; together they have room for what the page has."""
    galleries = [Gallery(tmp_path, LIMIT // 2) for _ in range(2)]
    for rank, gallery in enumerate(galleries):
        fill(gallery, list(range(rank, 40, 2)))
    ranks = Ranks(rank=0, world=2)
    monkeypatch.setattr(Ranks, "gather", lambda self, part: [list(gallery) for gallery in galleries])
    galleries[0].gather(ranks)
    shown = [key for key, _, views in described(list(galleries[0])) if views]
    assert shown == [f"{number:03}" for number in range(39, 33, -1)]


def test_what_has_no_figure_is_as_good_as_none(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, LIMIT)
    for key, badness in (("a", (None, 1.0)), ("b", (0.0, 2.0)), ("c", (True, None))):
        gallery.add(key, badness, None, [])
    assert [entry.key for entry in gallery] == ["c", "b", "a"]
