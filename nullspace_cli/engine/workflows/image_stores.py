"""Where images lie and where what is made of them goes: files of their own, or archives that are written anew.

Whatever is done with images is done with files. Those of an archive stand in a folder of their own while they are at
work, a few at a time.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from nullspace_cli.engine.data.archive import Rewriting
from nullspace_cli.engine.data.archives import ending_of, open_archive, why_no_archive
from nullspace_cli.engine.errors import ArtifactError, DataError, VitnullError
from nullspace_cli.engine.files.addresses import fetch, is_address
from nullspace_cli.engine.files.paths import exists, reason_of
from nullspace_cli.engine.files.pictures import check_picture
from nullspace_cli.engine.files.stand_ins import by_known_names, stand_in_folder
from nullspace_cli.engine.files.work_locks import at_work_on
from nullspace_cli.engine.files.writing import FilesTogether
from nullspace_cli.engine.workflows.archive_failures import failures_of, keep_failures
from nullspace_cli.engine.workflows.failed_input import DoneElsewhere, Failed


class Job(Protocol):
    """What is to be done with one image."""

    @property
    def source(self) -> Path:
        """What is read."""
        ...

    def reading(self, source: Path) -> Self:
        """The same of another file."""
        ...

    def files(self) -> list[Path]:
        """All that is written."""
        ...


J = TypeVar("J", bound=Job)
J_co = TypeVar("J_co", bound=Job, covariant=True)
Work = Callable[[Iterable[J], bool], Generator[Sequence[Any], None, None]]
"""What is made of images, some at a time and in their order; of one that could not be done a `Failed`. With True others
may be at work on them, and those come last.
"""


class ImageStore(Protocol[J_co]):
    """Images that lie in one place."""

    def __len__(self) -> int: ...

    def claimed(self, *, wait: bool) -> AbstractContextManager[bool]:
        """Whether it is for this process to do, until the block ends.

        Args:
            wait: for whoever is at work on it.
        """
        ...

    def through(self, work: Work[J_co]) -> Iterator[Sequence[Any]]:
        """What `work` makes of the images; its files are where they belong once all of it has been taken."""
        ...


def through_all(stores: Iterable[ImageStore[J]], work: Work[J]) -> Iterator[Sequence[Any]]:
    """What `work` makes of the images of all stores; what another process is at work on comes last."""
    busy: list[ImageStore[J]] = []
    for store, wait in chain(((store, False) for store in stores), ((store, True) for store in busy)):
        with store.claimed(wait=wait) as mine:
            if mine:
                yield from store.through(work)
            else:
                busy.append(store)


@dataclass(frozen=True)
class LooseFiles(Generic[J]):
    """Image files, with results that are files of their own: an `ImageStore`."""

    jobs: Sequence[J]
    shared: bool = False

    def __len__(self) -> int:
        return len(self.jobs)

    def claimed(self, *, wait: bool) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def through(self, work: Work[J]) -> Iterator[Sequence[Any]]:
        return work(self.jobs, self.shared)


@dataclass(frozen=True)
class FetchedFiles(Generic[J]):
    """Image files that lie elsewhere, each fetched when its turn comes: an `ImageStore`."""

    jobs: Sequence[J]
    names: MutableMapping[str, str]

    def __len__(self) -> int:
        return len(self.jobs)

    def claimed(self, *, wait: bool) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def through(self, work: Work[J]) -> Iterator[Sequence[Any]]:
        fetched: deque[tuple[Path, VitnullError | None]] = deque()
        with ExitStack() as stack:
            folders: dict[Path, Path] = {}

            def jobs() -> Iterator[J]:
                for job in self.jobs:
                    parent = job.source.parent
                    if parent not in folders:
                        folders[parent] = stack.enter_context(stand_in_folder(str(parent), self.names))
                    file, error = folders[parent] / job.source.name, None
                    try:
                        fetch(job.source, file)
                    except VitnullError as failure:
                        error = failure
                    fetched.append((file, error))
                    yield job.reading(file)

            for group in work(jobs(), False):
                told = []
                for result in group:
                    file, error = fetched.popleft()
                    file.unlink(missing_ok=True)
                    told.append(Failed(file, error) if error else result)
                yield told


@dataclass(frozen=True)
class ArchiveFiles:
    """An archive that is read, and the one that is written."""

    source: Path
    target: Path

    def files(self) -> list[Path]:
        """All that is written."""
        return [self.target]


@dataclass(frozen=True)
class ArchiveSettings(Generic[J]):
    """What all archives of a run share.

    Attributes:
        job_of: what is to be done with an image: with a file of its name, and for files whose names begin with a stem.
        replaces: whether a result takes the place of its image, or belongs to it from then on.
        beside: as of `Archive.rewriting`.
        names: what the beginnings of names stand for, for whoever tells of them.
        notice: is told what the user should know besides the results.
        columns: as of `open_archive`.
        force: whether existing files may be overwritten.
        shared: leave to other processes what they are at work on.
    """

    job_of: Callable[[Path, Path], J]
    replaces: bool
    names: MutableMapping[str, str]
    notice: Callable[[str], None] = lambda text: None
    columns: Sequence[str] = ()
    beside: Sequence[str] = ()
    force: bool = False
    shared: bool = False


@dataclass(frozen=True)
class RewrittenArchive(Generic[J]):
    """The images of an archive, with results in an archive like it: an `ImageStore`.

    An image that could not be done stays as it was, and is named in a list beside it (`archive_failures`). Where none
    could be done, nothing is written.

    Attributes:
        source, target: the archive that is read, and the one that is written.
        count: how many images it has; 0 where that is not known yet.
    """

    source: Path
    target: Path
    count: int
    settings: ArchiveSettings[J]

    def __len__(self) -> int:
        return self.count

    def claimed(self, *, wait: bool) -> AbstractContextManager[bool]:
        shared = self.settings.shared and not is_address(self.target)  # where there are no locks
        return at_work_on(self.target, wait=wait) if shared else nullcontext(True)

    def through(self, work: Work[J]) -> Iterator[Sequence[Any]]:
        if self.settings.shared and exists(self.target) and why_no_archive(self.target) is None:
            failures = failures_of([self.target])
            yield [DoneElsewhere(self.source), *(Failed(image, DataError(why)) for image, why in failures.items())]
            return
        ours = True
        try:
            with ExitStack() as stack:
                images = _Images(self, self._at_hand(stack), stack)
                results = work(images.jobs(), False)
                stack.callback(results.close)  # nobody is at work any more when the files go
                while True:
                    ours = False
                    group = next(results, None)
                    ours = True
                    if group is None:
                        break
                    for result in group:
                        images.settle(result.error if isinstance(result, Failed) else None)
                    yield group
                images.end()
        except VitnullError as error:
            if not ours:
                raise
            yield [Failed(self.source, error)]

    def _at_hand(self, stack: ExitStack) -> Path:
        """The archive that is read, on the disk."""
        if not is_address(self.source):
            return self.source
        file = stack.enter_context(stand_in_folder(str(self.source.parent), self.settings.names)) / self.source.name
        fetch(self.source, file)
        return file


class Look:
    """A look at the headers of images and of archives, before anything slow.

    Attributes:
        counts: how many images each archive has.
    """

    def __init__(self, columns: Sequence[str], notice: Callable[[str], None]) -> None:
        """
        Args:
            columns: as of `open_archive`.
            notice: is told, once for each kind, which images of archives stay as they are.
        """
        self._columns, self._notice, self._told = columns, notice, set[str]()
        self.counts: dict[Path, int] = {}

    def __call__(self, source: Path) -> None:
        """Look at one.

        Raises:
            VitnullError: it cannot be read.
        """
        if is_address(source):  # which shows when it is fetched
            if ending_of(source):
                self.counts[source] = 0
            return
        if ending_of(source) is None:
            check_picture(source)
            return
        archive = open_archive(source, self._columns)
        self.counts[source] = len(archive)
        if archive.others and archive.others not in self._told:
            self._told.add(archive.others)
            self._notice(f"{source} has further images, {archive.others}, which stay as they are; see `column`")

    def stores(self, jobs: Iterable[J | ArchiveFiles], settings: ArchiveSettings[J]) -> list[ImageStore[J]]:
        """The stores of all images: of those that are files of their own, here and elsewhere, then of archives."""
        loose: list[J] = []
        elsewhere: list[J] = []
        archives: list[RewrittenArchive[J]] = []
        for job in jobs:
            if isinstance(job, ArchiveFiles):
                archives.append(RewrittenArchive(job.source, job.target, self.counts[job.source], settings))
            else:
                (elsewhere if is_address(job.source) else loose).append(job)
        stores: list[ImageStore[J]] = []
        if loose:
            stores.append(LooseFiles(loose, settings.shared))
        if elsewhere:
            stores.append(FetchedFiles(elsewhere, settings.names))
        return [*stores, *archives]


def are_there(files: ArchiveFiles | Job) -> bool:
    """Whether all that is to be written is there already, archives whole."""
    if isinstance(files, ArchiveFiles):
        return exists(files.target) and why_no_archive(files.target) is None
    return bool(files.files()) and all(map(exists, files.files()))


class _Images(Generic[J]):
    """The images of an archive while they are worked on, and the archive that is written meanwhile."""

    def __init__(self, store: RewrittenArchive[J], source: Path, stack: ExitStack) -> None:
        """
        Args:
            source: where the archive that is read is at hand.
        """
        settings = store.settings
        self._store, self._archive = store, open_archive(source, settings.columns)
        files = stack.enter_context(FilesTogether(force=settings.force))
        temporary = files.write(store.target, lambda path: path)
        self._rewriting: Rewriting = stack.enter_context(self._archive.rewriting(temporary, settings.beside))
        self._sources, self._results = (
            stack.enter_context(stand_in_folder(str(path), settings.names)) for path in (store.source, store.target)
        )
        self._waiting, self._done = deque[tuple[int, Path, J]](), 0
        self._failures: dict[str, str] = {}
        self._lists = stack.enter_context(FilesTogether(force=True))  # an older list says nothing of this archive
        self._broken: VitnullError | None = None

    def jobs(self) -> Iterator[J]:
        """One after the other, each with a file for its image. Where there is none to be had they end."""
        images = self._archive.images()
        while True:
            try:
                image = next(images, None)
                if image is None:
                    return
                source, stem = self._sources / image.name, self._results / image.stem
                for path in (source, stem):
                    path.parent.mkdir(parents=True, exist_ok=True)
                source.write_bytes(image.content)
            except OSError as error:
                self._broken = ArtifactError(f"Cannot unpack {self._store.source}: {reason_of(error)}.")
                return
            except VitnullError as error:
                self._broken = error
                return
            job = self._store.settings.job_of(source, stem)
            self._waiting.append((image.place, source, job))
            yield job

    def settle(self, error: VitnullError | None) -> None:
        """Put in the results of the next image, or the image itself if it could not be done."""
        place, source, job = self._waiting.popleft()
        files = [] if error else job.files()
        replaces = not error and self._store.settings.replaces
        self._rewriting.put(place, files[0] if replaces else None, files[1:] if replaces else files)
        if error:
            names = self._store.settings.names
            self._failures[by_known_names(f"{source}", names)] = by_known_names(f"{error}", names)
        else:
            self._done += 1
        for file in (source, *files):
            file.unlink()

    def end(self) -> None:
        """See that all was done that could be.

        Raises:
            VitnullError: the archive could not be read to its end, or none of its images could be done.
        """
        if self._broken:
            raise self._broken
        source, target = self._store.source, self._store.target
        if not self._done:
            raise DataError(f"None of the images of {source} could be done, and {target} is not written.")
        keep_failures(target, self._failures, self._lists)
        if self._failures:
            self._store.settings.notice(f"{target} has {len(self._failures)} of the images of {source} as they were")
