"""The embedded demo's drawings as a data set."""

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.data.collection import Decoded, Split
from nullspace_cli.engine.files.two_readings import Reading

COUNTS: dict[Split, int] = {"train": 2000, "val": 500}


class Drawings:
    """A `Collection` that is drawn when it is asked for."""

    classes = CLASSES

    def __init__(self, split: Split) -> None:
        self.name, self._split = f"demo/{split}", split
        self.labels = [i % len(CLASSES) for i in range(COUNTS[split])]

    def name_of(self, index: int) -> str:
        return f"{self.name}/{index:05d}"

    def decode(self, index: int, reading: Reading) -> Decoded:
        return Decoded(draw(self._split, index)[0])

    def stamp(self, index: int) -> tuple[str, None]:
        return self.name_of(index), None

    def file_of(self, index: int) -> None:
        return None
