"""Learned noise from data to files: what `vitnull learn-noise` runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.documents.artefacts import read_provenance, require_weights
from nullspace_cli.engine.documents.kinds import LEARNING
from nullspace_cli.engine.errors import ArtifactError, DataError, VitnullError
from nullspace_cli.engine.files.paths import exists
from nullspace_cli.engine.files.writing import check_output
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.noise.injection_sites import InjectionSite
from nullspace_cli.engine.noise.noise import read_learned, write_noise
from nullspace_cli.engine.noise.presets import owner
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import LearningResult, Plan, Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.workflows.progress import Progress, unwatched

SAVE_SECONDS = 30.0
"""So much work at most is lost when a run is killed."""


class Learned(NamedTuple):
    """All noises of a run, in the order of the limits, and the images that all processes had to leave out."""

    noises: list[LearningResult]
    skipped: list[str]


@dataclass(frozen=True)
class NoiseRun:
    """A run of `vitnull learn-noise`.

    Attributes:
        images: those that are learned from, `plan.images` of them; `transform` makes them the model's input.
        outputs: the file of each of the plan's limits.
        state: the file that a killed run goes on from; it is removed in the end. Of several processes the first alone
            reads and writes files.
        resume: whether to go on from it, and to keep noises that are finished.
        every: optimiser steps between two states; by default one is written every 30 seconds.
        skip_bad: leave out images that cannot be read, which else are an error.
    """

    model: Model
    site: InjectionSite
    images: ImageSet
    transform: EvalTransform
    plan: Plan
    outputs: tuple[Path, ...]
    state: Path
    store: Store
    ranks: Ranks
    resume: bool = False
    force: bool = False
    every: int | None = None
    workers: int | None = None
    skip_bad: bool = False
    notice: Callable[[str], None] = lambda text: None
    progress: Progress = unwatched

    def __call__(self) -> Learned:
        """Learn what is not there yet, and write it.

        Raises:
            ArtifactError: a file is there that does not belong to this run.
            DataError: no image could be read.
        """
        files = dict(zip(self.plan.limits, self.outputs, strict=True))
        interrupted = self.ranks.lead(lambda: self.resume and self.state.exists())
        done = self.ranks.lead(lambda: self._finished(files) if self.resume and not interrupted else {})
        limits = tuple(limit for limit in files if limit not in done)
        skipped: list[str] = []
        if limits:
            trainer = self._prepare(replace(self.plan, limits=limits), skipped)
            if interrupted:
                if self.ranks.first:
                    trainer.restore(self.state)
                trainer.follow()
            started = time.monotonic()
            self._run(trainer)
            rate = sum(self.ranks.gather(trainer.images)) / max(time.monotonic() - started, 1e-9)
            done |= self._finish(trainer, files, rate)
        left_out = [name for part in self.ranks.gather(skipped) for name in part]
        return Learned([done[limit] for limit in files], left_out)

    def _finished(self, files: dict[float, Path]) -> dict[float, LearningResult]:
        """Noises that an earlier run of the same plan has finished."""
        done = {}
        for limit, path in files.items():
            if path.exists():
                tensors, about = read_learned(path)
                require_weights(path, about, self.model.name, self.model.weights_sha256)
                self.plan.require(path, about.parameters["plan"], but=("limits",))
                done[limit] = LearningResult(
                    self._record(about.parameters["record"], path, None), tensors["losses"].tolist()
                )
        return done

    def _prepare(self, plan: Plan, skipped: list[str]) -> Trainer:
        """What learns by the plan; names of images that are left out go to `skipped`."""

        def skip(name: str, error: VitnullError) -> None:
            skipped.append(name)
            self.notice(f"left out: {error}")

        mine = [i for i in range(plan.images) if owner(i, plan.step_images, self.ranks.world) == self.ranks.rank]
        with self.progress("reading images", "images", len(mine)) as advance:
            cache = ReferenceCache(
                self.model, self.site, self.images, mine, self.transform, self.store,
                workers=self.workers, skip=skip if self.skip_bad else None, notice=self.notice, advance=advance,
            )  # fmt: skip
        trainer = Trainer(self.model, self.site, cache, plan, self.ranks, self.notice)
        if not any(trainer.present):
            raise DataError(f"None of the {plan.images} images of {self.images.name} can be read.")
        return trainer

    def _run(self, trainer: Trainer) -> None:
        saved = time.monotonic()
        try:
            with self.progress("learning", "steps", trainer.plan.steps - trainer.done) as advance:
                for done in trainer.steps():
                    advance()
                    now = time.monotonic()
                    if now - saved >= SAVE_SECONDS if self.every is None else done % self.every == 0:
                        if self.ranks.first:
                            trainer.save(self.state)
                        saved = now
        except VitnullError:
            if self.ranks.first and trainer.done:  # a step that fails has changed nothing yet
                trainer.save(self.state)
                self.notice(f"the run as it stood after {trainer.done} steps is kept in {self.state}")
            raise

    def _finish(self, trainer: Trainer, files: dict[float, Path], rate: float) -> dict[float, LearningResult]:
        done = {}
        for learner in trainer.learners:
            path, record = files[learner.limit], learner.record(trainer.plan)
            if self.ranks.first:
                write_noise(
                    path,
                    self.model,
                    trainer.plan.level,
                    learner.noise.detach(),
                    init=learner.init,
                    losses=learner.losses,
                    limit=learner.limit,
                    plan=trainer.plan.to_dict(),
                    record=record,
                    force=self.force or self.resume,
                )
            done[learner.limit] = LearningResult(self._record(record, path, rate), learner.losses)
        if self.ranks.first:
            self.state.unlink(missing_ok=True)
        return done

    def _record(self, record: dict[str, Any], path: Path, rate: float | None) -> dict[str, Any]:
        return {**record, "noise": str(path), "images_per_second": None if rate is None else round(rate, 2)}


def check_files(written: Sequence[Path], state: Path, *, resume: bool, force: bool) -> None:
    """See that all files can be written, and that an interrupted run's work is not thrown away by mistake.

    Raises:
        ArtifactError: there is such work, and it was not said what to do with it; or a file cannot be written.
    """
    _check_state(state, resume=resume, force=force)
    for path in written:
        check_output(path, force=force or resume)
    check_output(state, force=True)


def _check_state(state: Path, *, resume: bool, force: bool) -> None:
    if not exists(state):
        return
    if resume:
        read_provenance(state, LEARNING)  # before anything slow
    elif not force:
        raise ArtifactError(
            f"{state} holds an interrupted run.",
            hint="Use `resume=True` to go on with it, or `overwrite=True` to start anew.",
        )
