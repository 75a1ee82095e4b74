"""Several processes that share one job, as `torchrun` starts them.

Each has its own file system and may fail by itself. What decides how a run goes on is therefore decided by the first of
them for all, what they must have in common is compared, and nobody waits for one that has failed or is gone. A process
on its own needs no torch to know that it is.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from nullspace_cli.engine.errors import UsageError, VitnullError, first_line, is_out_of_memory
from nullspace_cli.engine.runtime.launch import Group, one_group, read_launch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

BEAT_SECONDS = 2.0
"""How often a process says that it is there."""

LONGEST_PAUSE = 0.1
"""Seconds from one look for the others to the next."""

LOST_SECONDS = 120.0
"""A process that has been silent for so long is taken for dead."""

JOIN_SECONDS = 300.0
"""Processes that have not found each other for so long never will."""

TOLD_SECONDS = 15.0
"""When it is said what is waited for."""

AGAIN = "Start the run again; with `resume=True` or `skip_existing=True` it goes on where it stood."


@runtime_checkable
class Store(Protocol):
    """What is used of `torch.distributed.Store`: texts and counters that all processes see."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def add(self, key: str, amount: int) -> int: ...
    def check(self, keys: list[str]) -> bool: ...
    def delete_key(self, key: str) -> bool: ...


class Meeting:
    """Where processes wait for each other, however long that takes, as long as all of them are alive and well.

    Args:
        lost: seconds of silence after which a process is taken for dead.
    """

    def __init__(self, store: Store, rank: int, world: int, *, beat: float = BEAT_SECONDS, lost: float = LOST_SECONDS):
        self._store, self._rank, self._world, self._beat, self._lost = store, rank, world, beat, lost
        self._count, self._over = 0, threading.Event()
        self._beating = threading.Thread(target=self._keep_beating, daemon=True)
        self._beating.start()

    def __call__(self) -> None:
        """Return when all processes have come to this point.

        Raises:
            VitnullError: one of them has failed, or has been silent for too long.
        """
        self._count += 1
        place = f"vitnull/at/{self._count}"
        self._store.add(f"{place}/{self._rank}", 1)
        heard: dict[int, tuple[int, float]] = {}
        pause = 0.001
        for rank in range(self._world):
            while not self._store.check([f"{place}/{rank}"]):
                self.require_all_well()
                self._require_beat(rank, heard)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._store.delete_key(f"vitnull/at/{self._count - 1}/{self._rank}")  # all have left the last place

    def require_all_well(self) -> None:
        """Raise what another process has failed with.

        Raises:
            VitnullError: one has.
        """
        if self._store.check(["vitnull/failed"]):
            rank, _, reason = self._store.get("vitnull/failed").decode().partition(" ")
            if int(rank) != self._rank:
                raise VitnullError(f"Process {rank} of {self._world} has failed, so that this one stops too: {reason}")

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process does not go on."""
        known = isinstance(error, VitnullError) and str(error)
        reason = known or f"{type(error).__name__}: {first_line(error)}"
        if not self._store.check(["vitnull/failed"]):
            self._store.set("vitnull/failed", f"{self._rank} {reason}")
        if self._rank == 0:
            time.sleep(3 * LONGEST_PAUSE)  # the store may go with this process: let those who wait read it

    def close(self) -> None:
        self._over.set()
        self._beating.join(self._beat)

    def _require_beat(self, rank: int, heard: dict[int, tuple[int, float]]) -> None:
        beats, now = self._store.add(f"vitnull/beat/{rank}", 0), time.monotonic()
        if rank not in heard or heard[rank][0] != beats:
            heard[rank] = beats, now
        elif now - heard[rank][1] > self._lost:
            raise VitnullError(
                f"Process {rank} of {self._world} has said nothing for {self._lost:g} seconds: it was killed, or its "
                f"machine is gone.",
                hint=AGAIN,
            )

    def _keep_beating(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and with it whoever listened
            while not self._over.is_set():
                self._store.add(f"vitnull/beat/{self._rank}", 1)
                self._over.wait(self._beat)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; a process on its own is rank 0 of 1.

    Attributes:
        local: its number among those on this machine.
        here: how many there are on this machine; None for all.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    here: int | None = None
    meeting: Meeting | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of the items: every `world`-th."""
        return list(items[self.rank :: self.world])

    def gather(self, part: T) -> list[T]:
        """The parts of all processes, in the order of their ranks, in every one of them.

        Raises:
            VitnullError: another process has failed.
        """
        if self.world == 1:
            return [part]
        from torch import distributed

        parts: list[Any] = [None] * self.world
        with self._together():
            distributed.all_gather_object(parts, part)
        return parts

    def lead(self, decide: Callable[[], T]) -> T:
        """What the first process decides, in every one of them; the others are not asked.

        Raises:
            VitnullError: another process has failed.
        """
        return self.gather(decide() if self.first else None)[0]  # type: ignore[return-value]

    def agree(self, what: str, value: str) -> None:
        """See that all processes have the same.

        Raises:
            VitnullError: they have not; in every one of them.
        """
        values = self.gather(value)
        if len(set(values)) > 1:
            odd = next(rank for rank, other in enumerate(values) if other != values[0])
            raise VitnullError(
                f"The processes see different {what}: process 0 has {values[0]}, process {odd} has {values[odd]}. Give "
                f"all of them the same files, by a shared file system or by copies."
            )

    def sum(self, tensor: "Tensor") -> "Tensor":
        """The sum over all processes, in place, the same to the last bit in every one of them.

        Raises:
            VitnullError: another process has failed.
        """
        if self.world > 1:
            from torch import distributed

            # gloo notices at once that a process is gone. NCCL waits for it, and then ends this one without a word.
            with self._together(meet=tensor.is_cuda):
                distributed.all_reduce(tensor)
        return tensor

    def device(self, name: str) -> str:
        """The device of this process: "auto" and "cuda" deal out one GPU to each.

        Raises:
            UsageError: several processes on this machine would share one GPU that was asked for by its number.
        """
        here = self.world if self.here is None else self.here
        if here > 1 and name.startswith("cuda:"):
            raise UsageError(
                f"{here} processes would share {name}.", hint='Use `device="cuda"`, which deals out one GPU to each.'
            )
        if self.world > 1 and name in ("auto", "cuda"):
            from torch import cuda

            if cuda.is_available():
                return f"cuda:{self.local % cuda.device_count()}"
        return name

    @contextmanager
    def _together(self, *, meet: bool = True) -> Iterator[None]:
        """Do what takes all processes; that another one is gone becomes an error of ours."""
        try:
            if meet and self.meeting:
                self.meeting()
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            with suppress(RuntimeError):
                if self.meeting:
                    self.meeting.require_all_well()
            raise VitnullError(f"Another process of this run is gone ({first_line(error)}).", hint=AGAIN) from error


@contextmanager
def joined_ranks(*, apart: bool = False) -> Iterator[Ranks]:
    """Join the process group that the environment describes, if it describes one, and leave it in the end.

    An error in one process ends the others too, with an error that names it, when they next wait for each other.

    Args:
        apart: whether tasks of a Slurm step are on their own, each with its part of the work. Else they are a group.

    Raises:
        UsageError: the environment makes no sense, or tasks that cannot find each other would all do the same.
        VitnullError: the others do not come.
    """
    launch = read_launch()
    group = launch.group if apart else one_group(launch)
    if group is None:
        yield Ranks()
        return

    from torch import distributed

    store = _join(group)
    meeting = Meeting(store, group.rank, group.world)
    try:
        yield Ranks(group.rank, group.world, group.local, group.here, meeting)
        # Nobody leaves while another still gathers: gloo aborts one that reads when its peer hangs up.
        with suppress(RuntimeError):  # the store is gone: whoever kept it has seen all of them
            meeting()
    except BaseException as error:
        with suppress(RuntimeError):  # the store is gone: so are the others
            meeting.fail(error)
        raise
    finally:
        meeting.close()
        distributed.destroy_process_group()


def _join(group: Group) -> Store:
    """Meet the other processes for the first time.

    It is done in a thread, for torch waits without an end where something else than a process of ours answers, and
    hears of no signal while it waits.

    Raises:
        VitnullError: they do not come within JOIN_SECONDS, or cannot be reached.
    """
    from torch import cuda, distributed

    # NCCL wants a GPU for each process; gloo carries records, and gradients where there is none.
    nccl = distributed.is_nccl_available() and group.here <= cuda.device_count()
    found: list[Store | Exception] = []
    over = threading.Event()

    def join() -> None:
        while group.rank > 0 and _silence(group) and not over.wait(LONGEST_PAUSE):
            pass  # torch would say so for every try, in pages
        limit = timedelta(seconds=2 * JOIN_SECONDS)  # as it would of its own time-out
        try:
            if not over.is_set():
                store, rank, world = next(
                    distributed.rendezvous(  # type: ignore[attr-defined]
                        "env://", rank=group.rank, world_size=group.world, timeout=limit
                    )
                )
                backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
                distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
                found.append(store)
        except Exception as error:  # noqa: BLE001 - raised below, in words
            found.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    try:
        thread.join(min(TOLD_SECONDS, JOIN_SECONDS))
        if not found:
            logging.getLogger(__name__).warning(
                "process %d of %d waits for the others at %s, for %g seconds at most",
                *(group.rank, group.world, group.address, JOIN_SECONDS),
            )
            thread.join(JOIN_SECONDS - TOLD_SECONDS)
    finally:
        over.set()
    reason = found[0] if found else TimeoutError(f"they did not all come within {JOIN_SECONDS:g} seconds")
    if not isinstance(reason, Exception):
        return reason
    silence = "" if found else _silence(group)
    raise VitnullError(
        f"Process {group.rank} of {group.world} has not found the others at {group.address}: {first_line(reason)}"
        f"{silence and f', and nobody answers there ({silence})'}.",
        hint="See that MASTER_ADDR and MASTER_PORT name the machine of process 0 and a free port of it, and that all "
        "processes are started.",
    ) from reason


def _silence(group: Group) -> str:
    """Why nobody answers where the first process should be; empty if somebody does."""
    host, _, port = group.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
