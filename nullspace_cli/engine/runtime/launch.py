"""How this process was started: as one of a process group (`torchrun`), as a task of a Slurm step, or by itself.

Read from the environment alone, without torch: what is wrong with it shows before anything slow.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nullspace_cli.engine.errors import UsageError

TORCHRUN = "Start it with torchrun, which sets all of them, or unset WORLD_SIZE and RANK to run one process alone."


@dataclass(frozen=True)
class Group:
    """Processes that can talk to each other, and which of them this one is.

    Attributes:
        local, here: its number among those on this machine, and how many these are.
        address: where the first of them keeps what all can read, as host:port.
    """

    rank: int
    world: int
    local: int
    here: int
    address: str


@dataclass(frozen=True)
class Task:
    """One of `count` tasks, from 0, that know nothing of each other."""

    index: int
    count: int


@dataclass(frozen=True)
class Launch:
    """What the environment says.

    Attributes:
        group: the processes that this one is one of; None if it is on its own.
        task: where Slurm has started this process, or the whole group, several times over.
    """

    group: Group | None = None
    task: Task | None = None

    def require_alone(self) -> None:
        """See that no other process does the same.

        Raises:
            UsageError: several were started.
        """
        count = (self.group.world if self.group else 1) * (self.task.count if self.task else 1)
        if count > 1:
            raise UsageError(
                f"{count} processes were started for the work of one: all would do the same and write the same files.",
                hint="Start one, without torchrun, or by srun -n 1. Where each is given other files, unset WORLD_SIZE "
                "and SLURM_PROCID.",
            )


def read_launch(environ: Mapping[str, str] = os.environ, *, terminal: bool | None = None) -> Launch:
    """What the environment says of how this process was started.

    Args:
        terminal: whether somebody types at this process; None to look.

    Raises:
        UsageError: it contradicts itself, or lacks something.
    """
    group = _group(environ)
    return Launch(group, _task(environ, group, os.isatty(0) if terminal is None else terminal))


def one_group(launch: Launch, environ: Mapping[str, str] = os.environ) -> Group | None:
    """The group of all processes that were started, for work that they cannot do apart; None for a single one.

    Tasks of a Slurm step are a group where MASTER_ADDR and MASTER_PORT say where they meet.

    Raises:
        UsageError: the processes cannot find each other, and each would do all of the work.
    """
    task, group = launch.task, launch.group
    if task is None:
        return group
    if group or not (environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")):
        several = f"{task.count} groups of {group.world} processes" if group else f"{task.count} tasks"
        raise UsageError(
            f"Slurm has started {several}, and each would do all of the work.",
            hint="Start one torchrun on each machine, with the same --nnodes and --rdzv-endpoint; or set MASTER_ADDR "
            "and MASTER_PORT, without torchrun; or start one process, by srun -n 1.",
        )
    here = _tasks_here(environ, task.count)
    local = _whole(environ, "SLURM_LOCALID", task.index % here)
    return Group(task.index, task.count, local, here, _address(environ))


def _group(environ: Mapping[str, str]) -> Group | None:
    world, rank = _whole(environ, "WORLD_SIZE", 1, least=1), _whole(environ, "RANK", 0)
    if rank >= world:
        of = f"WORLD_SIZE={world}" if environ.get("WORLD_SIZE") else "WORLD_SIZE, which is not set and counts as 1"
        raise UsageError(f"RANK={rank} is not below {of}.", hint=TORCHRUN)
    if world == 1:
        return None
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]:
        raise UsageError(
            f"By WORLD_SIZE={world} this is one of {world} processes, but what else they need is not set: "
            f"{', '.join(missing)}.",
            hint=TORCHRUN,
        )
    here = _whole(environ, "LOCAL_WORLD_SIZE", world, least=1)
    local = _whole(environ, "LOCAL_RANK", rank % here)
    if not local < here <= world:
        raise UsageError(
            f"LOCAL_RANK={local}, LOCAL_WORLD_SIZE={here} and WORLD_SIZE={world} contradict each other: each is to be "
            f"less than the next, or the last two equal.",
            hint=TORCHRUN,
        )
    return Group(rank, world, local, here, _address(environ))


def _task(environ: Mapping[str, str], group: Group | None, terminal: bool) -> Task | None:
    if not environ.get("SLURM_PROCID"):
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if environ.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    count, index = _whole(environ, tasks, 1, least=1), _whole(environ, "SLURM_PROCID", 0)
    # A batch script is the first of its job's tasks by name, and told of the nodes; but of no step, and started once.
    if environ.get("SLURM_JOB_NODELIST") and not environ.get("SLURM_STEP_ID") and index == 0:
        return None
    if index >= count:
        raise UsageError(
            f"SLURM_PROCID={index} is not below {tasks}={count}.",
            hint="They are Slurm's; unset both if they are left over.",
        )
    # Where tasks start a torchrun each, these may belong together; WORLD_SIZE set by hand is of all tasks.
    joined = group is not None and _whole(environ, "GROUP_WORLD_SIZE", group.world, least=1) > 1
    # The shell of `srun --pty` is a task, too. What is typed there was started once.
    typed = terminal and "SLURM_PTY_PORT" in environ
    return None if count == 1 or joined or typed else Task(index, count)


def _tasks_here(environ: Mapping[str, str], count: int) -> int:
    """How many of a step's tasks are on this machine, from Slurm's list of counts, as "2(x3),1"; at worst all."""
    counts: list[int] = []
    for number, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(number)] * min(int(times or 1), count)
    node = _whole(environ, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) and 0 < counts[node] <= count else count


def _address(environ: Mapping[str, str]) -> str:
    port = _whole(environ, "MASTER_PORT", 0, least=1, most=65535)
    return f"{environ['MASTER_ADDR']}:{port}"


def _whole(environ: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int = 1_000_000) -> int:
    """A number of the environment; a variable that is empty is not set."""
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise UsageError(f"{name}={text} is not a whole number from {least} to {most}.", hint=TORCHRUN)
    return int(text)
