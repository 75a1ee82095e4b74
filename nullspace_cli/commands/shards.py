"""Which part of the images this process does, where several were started that know nothing of each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from nullspace_cli.commands.console import Console
from nullspace_cli.commands.options import MANY
from nullspace_cli.commands.outputs import STAND_INS

T = TypeVar("T")

PLACEHOLDER = "{shard}"


@dataclass(frozen=True)
class Shard:
    """Every `count`-th of the images, from that of this `number` on; numbers are from 1 to `count`."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, items: Sequence[T]) -> list[T]:
        """Its part of all items, whichever of them are done already."""
        return list(items[self.number - 1 :: self.count])

    def own(self, path: Path | None, option: str) -> Path | None:
        """A file that each shard writes, by a name of its own.

        Raises:
            typer.BadParameter: all shards would write the one file.
        """
        if path is None or path in STAND_INS or (PLACEHOLDER not in path.name and self.count == 1):
            return path
        if PLACEHOLDER not in path.name:
            name = path.with_name(f"{path.stem}.{PLACEHOLDER}{path.suffix}")
            raise typer.BadParameter(
                f"each of the {self.count} shards would write {path}; give a name with {PLACEHOLDER}, as {name}",
                param_hint=option,
            )
        return path.with_name(path.name.replace(PLACEHOLDER, f"{self.number}-of-{self.count}"))


def read_shard(text: str) -> Shard:
    """A parser of options: I/N."""
    number, slash, count = (part.strip() for part in text.partition("/"))
    if not slash or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (number, count)):
        raise typer.BadParameter(f"'{text}' is not of the form I/N, as 2/8 for the second of eight shards")
    shard = Shard(int(number), int(count))
    if not 1 <= shard.count <= MANY:
        raise typer.BadParameter(f"'{text}': there are from 1 to {MANY:,} shards")
    if not 1 <= shard.number <= shard.count:
        raise typer.BadParameter(
            f"'{text}': shards are counted from 1/{shard.count} to {shard.count}/{shard.count}; to a number that is "
            f"counted from 0 add 1"
        )
    return shard


ShardOption = Annotated[
    Shard | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        parser=read_shard,
        help="Do every N-th image from the I-th on, I from 1 to N, so that N jobs share the work: in a job array "
        "$SLURM_ARRAY_TASK_ID/N. [default: I of the N tasks of a Slurm step, else 1/1, which is all]",
    ),
]


def shard_of(given: Shard | None, console: Console) -> Shard:
    """The shard that was asked for, or that falls to this task of a Slurm step; it is said which.

    Raises:
        UsageError: the environment says nonsense of how this process was started.
    """
    from nullspace_cli.engine.runtime.launch import read_launch

    task = read_launch().task
    if given or task is None:
        return given or Shard()
    shard = Shard(task.index + 1, task.count)
    console.note(f"shard {shard}: this is one of {task.count} tasks of a Slurm step. --shard 1/1 would do all images.")
    return shard
