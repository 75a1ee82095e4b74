"""Noise that a network does not notice: learned, saved, and measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.data.loader import Store
from nullspace_cli.engine.data.tensors import Tensors
from nullspace_cli.engine.documents.artefacts import is_finite
from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.evaluation.noises_under_test import Control, NoiseUnderTest, cases_of
from nullspace_cli.engine.evaluation.stability import Evaluation, evaluate
from nullspace_cli.engine.models.compiled import compiled
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.noise import Noise, read_noise, write_noise
from nullspace_cli.engine.noise.presets import PROTOCOLS, STEP_IMAGES, ProtocolName
from nullspace_cli.engine.noise.recipe import Recipe
from nullspace_cli.engine.noise.reference_cache import ReferenceCache
from nullspace_cli.engine.noise.trainer import Trainer
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.library.arguments import require_choice, require_count, require_model, require_number, seed_of, wrong
from nullspace_cli.library.inputs import require_batch

Site = Literal["tokens", "input"]
LEVELS: Mapping[Site, Level] = {"tokens": "encoder", "input": "input"}
"""By the names of files and of the command line."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnedNoise(Noise):
    """Noise that `learn_noise` made; a `Noise`, with how it came about.

    Attributes:
        init: what it started from, of the shape of `delta`.
        losses: the loss of each optimiser step, mean over its images.
        plan: all that decided what was learned.
        record: rounds, steps, first and last loss, norms before and after.
        learner: whose noise it is.
    """

    init: Float[Tensor, "1 *shape"]
    losses: tuple[float, ...]
    plan: Mapping[str, Any]
    record: Mapping[str, Any]
    learner: Model

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write what `vitnull learn-noise` writes and `vitnull eval` reads.

        Raises:
            ArtifactError: the file cannot be written, or is there already.
        """
        assert self.limit is not None  # learned noise has one
        return write_noise(
            Path(path),
            self.learner,
            self.level,
            self.delta,
            init=self.init,
            losses=self.losses,
            limit=self.limit,
            plan=self.plan,
            record=self.record,
            force=overwrite,
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON of `vitnull learn-noise` that say what came of it."""
        return dict(self.record)

    def __repr__(self) -> str:
        shape, losses = list(self.delta.shape[1:]), f"loss {self.losses[0]:.3g} ... {self.losses[-1]:.3g}"
        return f"<LearnedNoise {shape} of {self.model} at {self.level} level, {losses} in {len(self.losses)} steps>"


def learn_noise(
    model: Model,
    images: Float[Tensor, "n c h w"],
    *,
    site: Site = "tokens",
    limit: float = 1.0,
    preset: ProtocolName = "adamw",
    epochs: int | None = None,
    lr: float | None = None,
    p: float = 2.0,
    step_images: int = STEP_IMAGES,
    memory: float = 4.0,
    compile: bool = False,
    generator: torch.Generator | None = None,
    callback: Callable[[int, float], object] | None = None,
) -> LearnedNoise:
    """Noise that leaves the model's answers as they are, learned on images (paper, section 4, eq. 6).

    Args:
        images: in [0, 1], of the model's input size.
        site: where the noise is added: on the "tokens" behind the patch embedding, or on the normalised "input".
        limit: it starts from U(-limit, limit), in the units of the site.
        preset: "adamw", or the paper's "sgd", or "paper-accum", the same as its authors ran it.
        epochs, lr: passes over the images, and learning rate; None for the preset's.
        p: of the loss ||f(x with v) - f(x)||_p; infinity is the largest entry's.
        step_images: images in one optimiser step.
        memory: GiB for what is computed once and kept; what is more goes to a temporary file.
        compile: compile the model's blocks first, on a GPU: for many epochs.
        generator: draws the noise and the order of the images; None for one that is seeded with 0.
        callback: is told how many steps are done, and the loss of the last one.

    Raises:
        UsageError: the images or a number are not of that kind.
        ModelError: "tokens" were asked for and the model has none; or its answers are not finite.
    """
    require_model(model)
    require_choice("site", site, LEVELS)
    require_choice("preset", preset, PROTOCOLS)
    require_number("limit", limit, above=0)
    require_number("memory", memory, least=0)
    require_count("step_images", step_images)
    if epochs is not None:
        require_count("epochs", epochs)
    if lr is not None:
        require_number("lr", lr, above=0)
    if p != float("inf"):
        require_number("p", p, least=1)
    if callback is not None and not callable(callback):
        raise wrong("callback", callback, "a function of the step and its loss")
    data, level = ImageSet(Tensors(require_batch(model, images))), LEVELS[site]
    recipe = Recipe(level, (float(limit),), preset, epochs, lr, fraction=1.0, norm=p, step_images=step_images)
    plan = recipe.plan(data.fingerprint(), len(data), model.transform, seed_of(generator))
    place, store = injection_site(model, level), Store(int(memory * 2**30))
    if compile:
        place = place.on(compiled(model))
    cache = ReferenceCache(model, place, data, range(len(data)), model.transform, store)
    trainer = Trainer(model, place, cache, plan, Ranks())
    (learner,) = trainer.learners
    for done in trainer.steps():
        if callback:
            trainer.catch_up()
            callback(done, learner.losses[-1])
    return LearnedNoise(
        delta=learner.noise.detach().cpu(),
        level=level,
        model=model.name,
        weights_sha256=model.weights_sha256,
        std=model.transform.std,
        limit=float(limit),
        sigma=None,
        source=Path("learned"),
        transform=model.transform,
        init=learner.init,
        losses=tuple(learner.losses),
        plan=plan.to_dict(),
        record=learner.record(plan),
        learner=model,
    )


def load_noise(path: Path | str) -> Noise:
    """The noise of a file that `vitnull learn-noise` or `LearnedNoise.save` wrote.

    Raises:
        ArtifactError: the file is not such noise, or is damaged.
    """
    if not isinstance(path, Path | str):
        raise wrong("path", path, "a file that learned noise was saved to")
    return read_noise(Path(path))


def evaluate_noise(
    model: Model,
    images: Float[Tensor, "n c h w"],
    noises: Noise | Float[Tensor, "c h w"] | Iterable[Noise | Float[Tensor, "c h w"]],
    *,
    labels: Sequence[int] | Int[Tensor, " n"] | None = None,
    controls: Sequence[Literal["shuffle", "uniform"]] = ("shuffle",),
    trials: int = 1,
    generator: torch.Generator | None = None,
) -> Evaluation:
    """How stable a model's answers are under noises, beside controls of equal norm (paper, sections 4 and 5).

    Args:
        images: in [0, 1], of the model's input size.
        noises: learned, of this model or (at the input) another's; or tensors in [0, 1] pixel units, such as
            `find_nullspace(model).sample(size, rms=0.1)`.
        labels: the true class of each image, for accuracies.
        controls: "shuffle" puts a noise's own elements in a random order, "uniform" draws all of them anew.
        trials: draws of each control.
        generator: draws them; None for one that is seeded with 0.

    Returns:
        `.results()`: a record for each noise and control (`match_percent`, `logit_mse`, `feature_cosine`, ...);
        `.accuracy`; `.per_image()`; `.to_dict()`, the keys of the JSON of `vitnull eval`.

    Raises:
        UsageError: the images, labels or a noise are not of that kind.
        ArtifactError: a noise means nothing to this model.
    """
    require_model(model)
    require_batch(model, images)
    if not isinstance(noises, Noise | Iterable) or isinstance(noises, str):
        raise wrong("noises", noises, "a Noise, a tensor or a list of such. See load_noise")
    given = [noises] if isinstance(noises, Noise | Tensor) else list(noises)
    if not given:
        raise UsageError("noises is empty; give at least one.")
    for control in (controls,) if isinstance(controls, str) else controls:
        require_choice("each of controls", control, ("shuffle", "uniform"))
    if isinstance(controls, str):
        raise UsageError(f"controls is {controls!r}; expected a list, as ({controls!r},).")
    require_count("trials", trials)
    tested = [_under_test(model, noise, f"noises[{i}]") for i, noise in enumerate(given)]
    classes, chosen = _classes(model, labels, len(images)), list[Control](controls)
    data = ImageSet(Tensors(images, classes, None if classes is None else model.num_classes))
    return evaluate(model, data, cases_of(tested, chosen, trials, seed_of(generator)))


def _under_test(model: Model, noise: Noise | Tensor, name: str) -> NoiseUnderTest:
    if isinstance(noise, Noise):
        if not is_finite(noise.delta):
            raise UsageError(f"{name} holds values that are not finite. Learn or load it again.")
        return NoiseUnderTest(noise.on(model), noise.weights_sha256 != model.weights_sha256)
    size = model.transform.input_size
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or tuple(noise.shape) != size:
        raise wrong(name, noise, f"a Noise, or floats {list(size)} in [0, 1] pixel units")
    delta = model.transform.delta_to_normalized(noise.double().cpu())[None].float()
    sigma = float(noise.double().square().mean().sqrt())
    if not 0 < sigma < float("inf"):
        raise UsageError(f"{name} is all 0, or not finite: there is nothing to test.")
    exact = Noise(delta, "input", model.name, model.weights_sha256, model.transform.std, None, sigma, Path(name))
    return NoiseUnderTest(exact, transfer=False)


def _classes(model: Model, labels: Sequence[int] | Tensor | None, count: int) -> list[int] | None:
    if labels is None:
        return None
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool or given.shape != (count,):
        raise wrong("labels", labels, f"{count} whole numbers, the class of each image")
    classes: list[int] = given.tolist()
    strange = [label for label in classes if not 0 <= label < model.num_classes]
    if strange:
        raise UsageError(f"labels has {strange[0]}; {model.name} has {model.num_classes} classes, counted from 0.")
    return classes
