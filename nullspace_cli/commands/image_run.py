"""Many images in one run: each is told of as it is done, and one that fails does not stop the others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.flags_in_errors import in_flags

if TYPE_CHECKING:
    from nullspace_cli.engine.runtime.distributed import Ranks
    from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed
    from nullspace_cli.engine.workflows.image_stores import ImageStore, Job, Look, Work

    J = TypeVar("J", bound=Job)

T = TypeVar("T")


class ImageRun:
    """The images of one run.

    Attributes:
        records: of the images that are done.
        failures: why another could not be done, by its source.
        elsewhere: how many have been done by other processes meanwhile.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        sources: Sequence[Path],
        look: "Look | None" = None,
        *,
        alone: bool,
        jsonl: bool,
    ) -> None:
        """Look at the headers of the sources, before anything slow.

        Args:
            name: by which a record is declared.
            look: at those of archives, too, where there may be some.
            alone: whether the run has a single image, whose failure is that of the run.
            jsonl: whether records are printed as they come.

        Raises:
            VitnullError: a source cannot be read, and is alone.
        """
        from nullspace_cli.engine.workflows.failed_input import refused

        self._console, self._name, self._alone, self._jsonl = console, name, alone, jsonl
        self._worst = self.elsewhere = 0
        self.records: list[Mapping[str, Any]] = []
        self.failures = refused(sources, alone=alone, **({"check": look} if look else {}))

    def tell_refused(self) -> None:
        """Say which sources cannot be read."""
        for source, reason in list(self.failures.items()):
            self._fail(source, reason)

    def through(
        self, stores: "Sequence[ImageStore[J]]", work: "Work[J]", advance: Callable[[], None]
    ) -> Iterator[list[Any]]:
        """What `work` makes of the images of all stores, as it comes, some at a time: those that are done.

        Raises:
            VitnullError: one failed, and is alone.
        """
        from nullspace_cli.engine.workflows.image_stores import through_all

        self._alone = self._alone and sum(map(len, stores)) == 1
        for group in through_all(stores, work):
            yield list(self.done(group, advance))

    def done(self, items: Iterable["T | Failed | DoneElsewhere"], advance: Callable[[], None]) -> Iterator[T]:
        """The images that are done, as they come; of the others it is said why they are not.

        Raises:
            VitnullError: one failed, and is alone.
        """
        from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed

        for item in items:
            advance()
            if isinstance(item, DoneElsewhere):
                self.elsewhere += 1
                continue
            if not isinstance(item, Failed):
                yield item
                continue
            if self._alone:
                raise item.error
            self._fail(Path(self._console.called(str(item.source))), str(item.error))

    def _fail(self, source: Path, reason: str) -> None:
        """Keep and tell why one could not be done, by its name: not every reason has it."""
        called, reason = self._console.called(str(source)), self._console.called(reason)
        named = reason if called in reason else f"{called}: {reason}"
        self.failures[source] = named
        self._console.error(named)
        if self._jsonl:
            self._console.record("failure", _described(source, named))

    def add(self, record: Mapping[str, Any], code: int = 0) -> None:
        """Keep the record of an image that is done, and the exit code that it alone would end with."""
        record = self._console.called(record)
        self.records.append(record)
        self._worst = max(self._worst, code)
        if self._jsonl:
            self._console.record(self._name, record)

    def gather(self, ranks: "Ranks") -> None:
        """Put together what all processes have done; each of them comes to know of it."""
        parts = ranks.gather((self.records, self.failures, self._worst, self.elsewhere))
        self.records = [record for records, *_ in parts for record in records]
        self.failures = {source: reason for _, failures, *_ in parts for source, reason in failures.items()}
        self._worst = max(worst for _, _, worst, _ in parts)
        self.elsewhere = sum(elsewhere for *_, elsewhere in parts)

    def described_failures(self) -> list[dict[str, str]]:
        """The failures as JSON documents have them."""
        return [_described(source, reason) for source, reason in self.failures.items()]

    @property
    def exit_code(self) -> int:
        return 4 if self.failures else self._worst


def _described(source: Path, reason: str) -> dict[str, str]:
    return {"source": str(source), "error": in_flags(reason)}
