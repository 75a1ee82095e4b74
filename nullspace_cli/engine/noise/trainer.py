"""Learning noise that a network does not notice (paper, section 4, eq. 6): the loop, and how a killed run goes on.

For each sampling limit a noise v, drawn from U(-lim, lim), is moved to lessen the mean of `loss` over images. f(x), the
undisturbed answer, never changes: it is computed once.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nullspace_cli.engine.documents.artefacts import Provenance, is_finite, read_tensors, require_weights, write_tensors
from nullspace_cli.engine.documents.kinds import LEARNING
from nullspace_cli.engine.errors import ArtifactError, VitnullError
from nullspace_cli.engine.models.model import Model, Outputs, not_finite
from nullspace_cli.engine.noise.injection_sites import InjectionSite, Level
from nullspace_cli.engine.noise.loss import loss
from nullspace_cli.engine.noise.presets import PROTOCOLS, ProtocolName, owner, steps_of_round
from nullspace_cli.engine.noise.reference_cache import Part, ReferenceCache
from nullspace_cli.engine.runtime.autograd import differentiating
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.runtime.out_of_memory import in_blocks
from nullspace_cli.engine.runtime.precision import full_precision

FP16_SCALE = 1024.0
"""Gradients of half precision vanish below 6e-8; this lifts those of single images well above."""


class LearningResult(NamedTuple):
    """One noise done: the record of the JSON document, and its loss in every step."""

    record: dict[str, Any]
    losses: list[float]


@dataclass(frozen=True)
class Plan:
    """All that decides what is learned, besides the model.

    Attributes:
        limits: sampling limits, one noise each, in the units of the level's inputs.
        norm: the p of the loss; infinity is the largest entry's.
        stop_eps: a noise is done when the mean over a round of sum_k (p_k - p'_k)^2, p the probabilities, is below.
        step_images: images in one optimiser step, of all processes together.
        data, images: fingerprint of the data set, and how many of its images are used.
        data_config: the transform by which they are read.
    """

    level: Level
    limits: tuple[float, ...]
    protocol: ProtocolName
    rounds: int
    lr: float
    fraction: float
    norm: float
    stop_eps: float | None
    step_images: int
    seed: int
    data: str
    images: int
    data_config: dict[str, Any]

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run, if nothing stops early."""
        return self.rounds * -(-self.images // self.step_images)

    def to_dict(self) -> dict[str, Any]:
        """The plan as it stands in documents; JSON has no infinity, so a norm that is has its name."""
        norm = "inf" if self.norm == math.inf else self.norm
        plan: dict[str, Any] = json.loads(json.dumps({**asdict(self), "norm": norm}, allow_nan=False))
        return plan

    def require(self, path: Path, other: dict[str, Any], *, but: tuple[str, ...] = ()) -> None:
        """Refuse a file that was made by another plan; `but` names what may differ."""
        own = self.to_dict()
        differing = [name for name in own if name not in but and own[name] != other.get(name)]
        if differing:
            what = ", ".join(f"{name} {other.get(name)} (now {own[name]})" for name in differing)
            raise ArtifactError(
                f"{path} was learned with {what}.", hint="Repeat those options, or use `overwrite=True` to start anew."
            )


class Learner:
    """One noise on its way."""

    def __init__(self, limit: float, shape: tuple[int, ...], plan: Plan, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(plan.seed)
        self.limit = limit
        self.init = (2 * torch.rand(1, *shape, generator=generator) - 1) * limit
        self.noise = nn.Parameter(self.init.to(device, copy=True))
        self.optimizer = PROTOCOLS[plan.protocol].optimizer(self.noise, plan.lr)
        self.losses: list[float] = []
        self.probability_change = 0.0  # summed over the images of the round so far
        self.stopped = False

    def step(self, gradient: Float[Tensor, "1 *shape"], lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.noise.grad = gradient
        self.optimizer.step()

    def record(self, plan: Plan) -> dict[str, Any]:
        """The keys of the JSON document that equal runs share."""
        if not is_finite(self.noise):  # only a last step can leave it so: the next one would have been refused
            raise VitnullError(f"The noise of limit {self.limit:g} is not finite.", hint="Use a smaller `lr`.")
        steps = len(self.losses)
        per_round = plan.steps // plan.rounds
        rounds = -(-steps // per_round)
        last = self.losses[(rounds - 1) * per_round :]
        return {
            "limit": self.limit,
            "rounds": rounds,
            "steps": steps,
            "loss_first": self.losses[0],
            "loss_last": sum(last) / len(last),
            "norm_init": float(self.init.double().norm()),
            "norm_final": float(self.noise.detach().double().norm()),
            "stopped": self.stopped,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, to go on from."""
        state = {f"optimizer.{name}": value for name, value in self.optimizer.state[self.noise].items()}
        return {"noise": self.noise.detach(), "losses": torch.tensor(self.losses, dtype=torch.float64), **state}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        with torch.no_grad():
            self.noise.copy_(tensors.pop("noise"))
        self.losses = tensors.pop("losses").tolist()
        # AdamW counts its steps on the CPU, and keeps all else beside the noise.
        self.optimizer.state[self.noise] = {
            name.removeprefix("optimizer."): value if value.ndim == 0 else value.to(self.noise.device)
            for name, value in tensors.items()
        }


class _Step(NamedTuple):
    """The images of one step, of all processes and of this one; what enters for the latter comes in pieces."""

    images: list[int]
    mine: list[int]
    pieces: Iterator[tuple[int, Part]]


class _Mark(NamedTuple):
    """Where a run stood: its steps, and of each noise all that changes, with its figures."""

    done: int
    learners: list[tuple[dict[str, Tensor], float]]


class Trainer:
    """A run: several noises that share images, clean answers and forward passes.

    A card is asked for nothing within a round. What the steps have come to is read at its end: a round in which
    something was not finite is then gone through once more, step by step, up to the one that cannot be made.

    Attributes:
        present: of each of the plan's images, whether it could be read.
        done: optimiser steps so far.
        images: noisy images that went forward and back in this process.
    """

    @differentiating
    def __init__(
        self,
        model: Model,
        site: InjectionSite,
        cache: ReferenceCache,
        plan: Plan,
        ranks: Ranks,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._model, self._site, self._cache, self.plan, self._ranks = model, site, cache, plan, ranks
        self._notice, self._chunk = notice, model.batch_size
        missing = {image for part in ranks.gather(cache.missing) for image in part}
        self.present = [image not in missing for image in range(plan.images)]
        self.learners = [Learner(limit, site.shape, plan, model.device) for limit in plan.limits]
        self.done = self.images = 0
        self._unread: list[Float[Tensor, "active 3"]] = []  # of steps that were made: loss, change, whether finite
        self._mark: _Mark | None = None

    def steps(self) -> Iterator[int]:
        """Learn, from where it stands; after each step, how many are done. Ends early when all noises have stopped."""
        per_round = self.plan.steps // self.plan.rounds
        self._chunk = self._pairs_at_once()
        for number in range(self.done // per_round, self.plan.rounds):
            if self._on_card:
                self._mark = self._here()
            for step in self._steps_of(number):
                if all(learner.stopped for learner in self.learners):
                    return
                self._step(step)
                self.done += 1
                if self.done % per_round == 0:
                    self._end_round()
                yield self.done

    @differentiating
    def _pairs_at_once(self) -> int:
        """How many images, with one noise each, go forward and back at once."""
        image = next((image for image, there in enumerate(self.present) if there and self._is_mine(image)), None)
        if image is None:
            return self._model.batch_size

        def passes(count: int) -> None:
            of_one = (tensor.expand(count, *tensor.shape[1:]) for tensor in self._cache([image]))
            self._gradient(self.learners[0].noise.detach(), *of_one)

        return self._model.images_at_once(passes)

    def catch_up(self) -> None:
        """Have the losses of the learners up to the last step.

        Raises:
            VitnullError: a step cannot be made. The learners stand where they stood before it.
        """
        if not self._take_in():
            self._go_through_again()

    def _is_mine(self, image: int) -> bool:
        return owner(image, self.plan.step_images, self._ranks.world) == self._ranks.rank

    @property
    def _on_card(self) -> bool:
        return self._model.device.type == "cuda"

    def _steps_of(self, number: int) -> Iterator[_Step]:
        """The steps of a round that are still to be made."""
        first = self.done - number * (self.plan.steps // self.plan.rounds)
        order = steps_of_round(self.plan.images, self.plan.step_images, self.plan.seed, number)[first:]
        steps = [[image for image in images if self.present[image]] for images in order]
        mine = [[image for image in images if self._is_mine(image)] for images in steps]
        size = self._chunk
        cut = [[own[start : start + size] for start in range(0, len(own), size)] for own in mine]
        lists = list(chain.from_iterable(cut))
        pieces = zip(map(len, lists), self._cache.pieces(lists), strict=True)
        for images, own, parts in zip(steps, mine, cut, strict=True):
            yield _Step(images, own, islice(pieces, len(parts)))

    def _end_round(self) -> None:
        self.catch_up()
        for learner in self.learners:
            mean = learner.probability_change / sum(self.present)
            learner.stopped = learner.stopped or (self.plan.stop_eps is not None and mean < self.plan.stop_eps)
            learner.probability_change = 0.0

    def _take_in(self) -> bool:
        """Read what the steps have come to since it was last read; False if not all of it is finite."""
        if not self._unread:
            return True
        figures = torch.stack(self._unread).cpu()
        if not bool(figures[..., 2].all()):
            return False
        self._unread.clear()
        active = [learner for learner in self.learners if not learner.stopped]
        for learner, (losses, changes, _) in zip(active, figures.permute(1, 2, 0).tolist(), strict=True):
            learner.losses += losses
            learner.probability_change = sum(changes, learner.probability_change)
        return True

    @differentiating
    def _here(self) -> _Mark:
        of_each = [
            ({name: tensor.clone() for name, tensor in own.tensors().items()}, own.probability_change)
            for own in self.learners
        ]
        return _Mark(self.done, of_each)

    @differentiating
    def _go_through_again(self) -> None:
        """Make the steps since the mark once more, each only if it is finite.

        Raises:
            VitnullError: one is not.
        """
        assert self._mark is not None
        until, per_round = self.done, self.plan.steps // self.plan.rounds
        self._unread.clear()
        self.done = self._mark.done
        for learner, (tensors, change) in zip(self.learners, self._mark.learners, strict=True):
            learner.restore(dict(tensors))
            learner.probability_change = change
        for step in islice(self._steps_of(self.done // per_round), until - self.done):
            self._step(step, checked=True)
            self.done += 1
        self._mark = self._here()

    @differentiating
    def _step(self, step: _Step, *, checked: bool = False) -> None:
        """One optimiser step of every noise that has not stopped, over the images of all processes.

        Args:
            checked: whether it is made only if it is finite, which has to be waited for; on the CPU it always is.

        Raises:
            VitnullError: it is not.
        """
        images, mine, pieces = step
        if not images:
            return
        active = [learner for learner in self.learners if not learner.stopped]
        noises = torch.cat([learner.noise.detach() for learner in active])
        gradient = torch.zeros_like(noises)
        sums = torch.zeros(len(active), 2, dtype=torch.float64, device=noises.device)

        def learn(part: Part, rows: range, columns: range) -> None:
            inputs, clean = part(rows)
            group = slice(columns.start, columns.stop)
            slopes, figures = self._gradient(noises[group], inputs, clean)
            gradient[group] += slopes
            sums[group] += figures

        for count, part in pieces:
            kept = lru_cache(maxsize=1)(part)
            # What takes memory is each image with each noise.
            self._chunk = in_blocks(partial(learn, kept), count, len(active), self._chunk, self._notice)
        self._ranks.sum(gradient)
        self._ranks.sum(sums)
        gradient /= len(images)
        finite = gradient.square().isfinite().all() & sums.isfinite().all()  # squares, which AdamW keeps
        if (checked or not self._on_card) and not bool(finite):
            raise self._not_finite(active, noises, mine)
        self.images += len(mine) * len(active)
        self._unread.append(torch.stack([sums[:, 0] / len(images), sums[:, 1], finite.to(sums).expand(len(active))], 1))
        if checked or not self._on_card:
            self._take_in()
        lr = self.plan.lr * PROTOCOLS[self.plan.protocol].decay(self.done, self.plan.steps)
        for learner, slope in zip(active, gradient, strict=True):
            learner.step(slope[None], lr)

    @torch.no_grad()
    def _not_finite(self, active: Sequence[Learner], noises: Tensor, images: Sequence[int]) -> VitnullError:
        """Why a step could not be made: an answer that is not finite, or else its gradient."""
        for image in images:
            inputs, _ = self._cache([image])
            for learner, noise in zip(active, noises, strict=True):
                ask = partial(self._answer, inputs + noise)
                if not bool(ask(self._model).answer.isfinite().all()):
                    of = f"an image with the noise of limit {learner.limit:g} after {self.done} steps"
                    return not_finite(self._model, of, ask)
        return VitnullError(
            f"The gradient is not finite after {self.done} steps.", hint='Use `amp="bf16"` or none, or a smaller `lr`.'
        )

    def _answer(self, values: Float[Tensor, "b *shape"], model: Model) -> Outputs:
        return self._site.on(model).answer(values)

    @full_precision
    def _gradient(
        self, noises: Float[Tensor, "g *shape"], inputs: Float[Tensor, "b *shape"], clean: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "g *shape"], Float[Tensor, "g 2"]]:
        """Summed over images: the gradient of each noise's loss, and its loss and change of probabilities."""
        noises = noises.clone().requires_grad_()
        noisy = (inputs + noises[:, None]).flatten(0, 1)
        answers = self._site.answer(noisy).answer.unflatten(0, (len(noises), len(inputs)))
        losses = loss(answers, clean, self.plan.norm)
        scale = FP16_SCALE if self._model.amp == "fp16" else 1.0
        (gradient,) = torch.autograd.grad(losses.sum() * scale, noises)
        change = torch.zeros_like(losses)
        if self.plan.stop_eps is not None:
            change = (answers.detach().softmax(-1) - clean.softmax(-1)).square().sum(-1)
        return gradient / scale, torch.stack([losses.detach().double().sum(1), change.double().sum(1)], 1)

    @differentiating
    def follow(self) -> None:
        """Stand where the first process stands."""

        def stand() -> tuple[int, list[tuple[dict[str, Tensor], bool, float]]]:
            of_each = [
                ({name: tensor.cpu() for name, tensor in own.tensors().items()}, own.stopped, own.probability_change)
                for own in self.learners
            ]
            return self.done, of_each

        self.done, learners = self._ranks.lead(stand)
        if self._ranks.first:
            return
        for learner, (tensors, stopped, change) in zip(self.learners, learners, strict=True):
            learner.restore(tensors)
            learner.stopped, learner.probability_change = stopped, change

    def save(self, path: Path) -> None:
        """Write all that a killed run needs to go on; nothing if it cannot go on from here."""
        if not self._take_in():
            return  # all processes find it out, at the end of the round
        tensors = {f"{i}.{name}": t for i, learner in enumerate(self.learners) for name, t in learner.tensors().items()}
        progress = {
            "done": self.done,
            "stopped": [learner.stopped for learner in self.learners],
            "probability_change": [learner.probability_change for learner in self.learners],
        }
        model, parameters = self._model, {"plan": self.plan.to_dict(), **progress}
        about = Provenance(LEARNING, "state", model.name, model.weights_sha256, self.plan.seed, parameters)
        write_tensors(path, tensors, about, force=True)

    @differentiating
    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ArtifactError: it belongs to another model or another plan, or is damaged. Nothing was changed then.
        """
        tensors, about = read_tensors(path, LEARNING)
        require_weights(path, about, self._model.name, self._model.weights_sha256)
        progress = about.parameters
        self.plan.require(path, progress["plan"])
        states = [
            {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            for i in range(len(self.learners))
        ]
        self._require_true(path, states, progress)
        self.done = progress["done"]
        for i, (learner, state) in enumerate(zip(self.learners, states, strict=True)):
            learner.restore(state)
            learner.stopped = progress["stopped"][i]
            learner.probability_change = progress["probability_change"][i]

    def _require_true(self, path: Path, states: list[dict[str, Tensor]], progress: Mapping[str, Any]) -> None:
        """See that what a state says of itself is what so many steps of this run lead to.

        A noise has a loss for every step in which there was an image to learn from, until the end of the round in
        which it stopped.
        """
        steps = self._steps_with_images(progress["done"])
        ends = {len([step for step in steps if step < end]) for end in self._ends_of_rounds(progress["done"])}
        for i, (learner, state, stopped) in enumerate(zip(self.learners, states, progress["stopped"], strict=True)):
            count, shape = len(state["losses"]), tuple(state["noise"].shape)
            optimizer = [name for name in state if name.startswith("optimizer.")]
            reason = None
            if shape != tuple(learner.noise.shape):
                reason = f"its noise {i} has shape {list(shape)}, the model's is {list(learner.noise.shape)}"
            elif count not in (ends if stopped else {len(steps)}):
                reason = f"its noise {i} has {count} losses after {progress['done']} steps"
            elif stopped and self.plan.stop_eps is None:
                reason = f"its noise {i} has stopped, and the plan has no stop_eps"
            elif bool(optimizer) != (count > 0 and self.plan.protocol != "sgd"):
                reason = f"its noise {i} has {count} losses and {len(optimizer)} tensors of the optimiser's"
            elif "optimizer.step" in state and int(state["optimizer.step"]) != count:
                reason = f"its noise {i} has {count} losses and {int(state['optimizer.step'])} steps of the optimiser"
            if reason:
                raise ArtifactError(f"{path} is damaged: {reason}.", hint="Use `overwrite=True` to start anew.")

    def _ends_of_rounds(self, done: int) -> list[int]:
        per_round = self.plan.steps // self.plan.rounds
        return list(range(per_round, done + 1, per_round))

    def _steps_with_images(self, done: int) -> list[int]:
        """The numbers of those of the first steps in which there was something to learn from."""
        per_round = self.plan.steps // self.plan.rounds
        if all(self.present):
            return list(range(done))
        found = []
        for number in range(-(-done // per_round)):
            order = steps_of_round(self.plan.images, self.plan.step_images, self.plan.seed, number)
            for step, images in enumerate(order):
                if any(self.present[image] for image in images):
                    found.append(number * per_round + step)
        return [step for step in found if step < done]
