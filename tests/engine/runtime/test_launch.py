"""What the environment says of how a process was started, by torchrun's variables and by Slurm's."""

import pytest

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.runtime.launch import Group, Launch, Task, one_group, read_launch

MASTER = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
SECOND = Group(1, 4, 1, 2, "node1:29500")


def ranks(rank: str, world: str, local: str, here: str, **more: str) -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {**dict(zip(names, (rank, world, local, here), strict=True)), **MASTER, **more}


@pytest.mark.parametrize(
    ("environ", "launch"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": "", "RANK": ""}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_PORT": "nonsense"}, Launch()),
        ({**MASTER, "LOCAL_RANK": "7"}, Launch()),
        (ranks("1", "4", "1", "2"), Launch(SECOND)),
        ({**MASTER, "RANK": "1", "WORLD_SIZE": "4"}, Launch(Group(1, 4, 1, 4, "node1:29500"))),
        # An sbatch script, and the shell of an allocation, by itself and as a step.
        ({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, Launch()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, Launch()),
        ({**STEP, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Launch()),
        ({**STEP, "SLURM_PTY_PORT": "34889", "terminal": "yes"}, Launch()),
        # srun -n 4, from that shell too; and what of it a container may be told
        (STEP, Launch(task=Task(2, 4))),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Launch(task=Task(0, 4))),
        ({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, Launch(task=Task(2, 4))),
        ({**STEP, "SLURM_PTY_PORT": "34889"}, Launch(task=Task(2, 4))),
        ({**STEP, "terminal": "yes"}, Launch(task=Task(2, 4))),
        # srun torchrun: of one process each, of two each, and of two each that belong together
        ({**STEP, **ranks("0", "1", "0", "1", GROUP_WORLD_SIZE="1")}, Launch(task=Task(2, 4))),
        ({**STEP, **ranks("1", "2", "1", "2", GROUP_WORLD_SIZE="1")},
         Launch(Group(1, 2, 1, 2, "node1:29500"), Task(2, 4))),
        ({**STEP, **ranks("5", "8", "1", "2", GROUP_WORLD_SIZE="4")}, Launch(Group(5, 8, 1, 2, "node1:29500"))),
        ({**STEP, **ranks("1", "4", "1", "2")}, Launch(SECOND)),
    ],
)  # fmt: skip
def test_what_was_started(environ: dict[str, str], launch: Launch) -> None:
    assert read_launch(environ, terminal="terminal" in environ) == launch


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WORLD_SIZE": "abc"}, r"^WORLD_SIZE=abc is not a whole number from 1 to"),
        ({"WORLD_SIZE": "0"}, r"^WORLD_SIZE=0 is not"),
        ({"WORLD_SIZE": "9" * 5000}, r"is not a whole number"),
        ({"WORLD_SIZE": "2.5"}, r"^WORLD_SIZE=2\.5 is not"),
        ({"RANK": "-1"}, r"^RANK=-1 is not"),
        ({"RANK": "3"}, r"^RANK=3 is not below WORLD_SIZE, which is not set and counts as 1\."),
        ({"WORLD_SIZE": "2"}, r"one of 2 processes, but .* not set: RANK, MASTER_ADDR, MASTER_PORT\. Start"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node1"}, r"not set: MASTER_PORT\."),
        (ranks("4", "4", "0", "2"), r"^RANK=4 is not below WORLD_SIZE=4\."),
        (ranks("1", "4", "2", "2"), r"contradict"),
        (ranks("1", "4", "1", "8"), r"contradict"),
        ({**ranks("1", "4", "1", "2"), "MASTER_PORT": "70000"}, r"^MASTER_PORT=70000 is not a whole number from 1 to"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "4"}, r"^SLURM_PROCID=4 is not below SLURM_NTASKS=4"),
        ({**STEP, "SLURM_PROCID": "4"}, r"^SLURM_PROCID=4 is not below SLURM_STEP_NUM_TASKS=4"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_launch(environ)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "group"),
    [
        ({"SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (0, 2)),
        ({"SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1,3"}, (0, 3)),
        ({"SLURM_LOCALID": "1", "SLURM_NODEID": "9", "SLURM_STEP_TASKS_PER_NODE": "nonsense"}, (1, 4)),
        ({}, (2, 4)),
    ],
)
def test_tasks_that_know_where_to_meet_are_a_group(more: dict[str, str], group: tuple[int, int]) -> None:
    environ = {**STEP, **MASTER, **more}
    launch = read_launch(environ, terminal=False)
    assert launch == Launch(task=Task(2, 4))
    assert one_group(launch, environ) == Group(2, 4, *group, "node1:29500")


def test_work_that_needs_all_is_not_done_by_each() -> None:
    with pytest.raises(UsageError, match=r"^Slurm has started 4 tasks, and each would do all of the work\. Start"):
        one_group(read_launch(STEP, terminal=False), STEP)
    environ = {**STEP, **ranks("1", "2", "1", "2", GROUP_WORLD_SIZE="1")}
    with pytest.raises(UsageError, match="Slurm has started 4 groups of 2 processes"):
        one_group(read_launch(environ, terminal=False), environ)
    assert one_group(Launch(), STEP) is None
    assert one_group(Launch(SECOND), STEP) == SECOND


@pytest.mark.parametrize(
    ("launch", "count"), [(Launch(SECOND), 4), (Launch(task=Task(0, 3)), 3), (Launch(SECOND, Task(0, 3)), 12)]
)
def test_work_of_one_process(launch: Launch, count: int) -> None:
    Launch().require_alone()
    with pytest.raises(UsageError, match=f"^{count} processes were started"):
        launch.require_alone()
