"""A model that can be asked: what it answers, and what is said of it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError, is_out_of_memory
from nullspace_cli.engine.models.not_finite import first_not_finite
from nullspace_cli.engine.models.stem import Stem, find_stem
from nullspace_cli.engine.runtime.autograd import ordinary, ordinary_tensors
from nullspace_cli.engine.runtime.card_memory import samples_at_once
from nullspace_cli.engine.runtime.module_copies import rewired, standing_in
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

Amp = Literal["none", "bf16", "fp16"]
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


IMAGES = 32
"""In one pass, where nobody says how many."""

MOST, MOST_BYTES = 1024, 2**28
"""Images in one pass, and bytes of their 8-bit inputs, if that is left to a card's memory: more make it no faster, wait
longer for their files, and take several times that much of the host's memory."""


class Outputs(NamedTuple):
    """What a model says of a batch: logits [b, k], None without a head, and the features [b, f] before the head."""

    logits: Float[Tensor, "b k"] | None
    features: Float[Tensor, "b f"]

    @property
    def answer(self) -> Float[Tensor, "b k"]:
        """What the model is asked for: its logits, or the features of a model without a head."""
        return self.features if self.logits is None else self.logits


@dataclass(frozen=True)
class Model:
    """A built model with its weights, ready to be asked.

    Attributes:
        name: full timm name with tag, or the hf-hub: / local-dir: name as it was given.
        weights: where they came from: "pretrained", "embedded", "random" or the checkpoint's path.
        weights_sha256: over the state dictionary (`artefacts.hash_state`).
        transform: the model's evaluation transform, at the *built* model's input size.
        seed: what random weights were drawn from.
        labels: the name of each class, where known; of ImageNet's, synonyms with commas between them.
        synsets: the WordNet synset of each class ("n01440764"), where its classes are ImageNet's.
        batch_size: images in one pass.
        by_memory: whether a card may be given more of them, as far as its memory goes: nobody has asked for a number.
    """

    module: nn.Module = field(repr=False)  # hundreds of lines, where a model is printed or something that holds one
    name: str
    weights: str
    weights_sha256: str
    transform: EvalTransform
    device: torch.device
    amp: Amp
    batch_size: int
    seed: int
    labels: tuple[str, ...] | None
    synsets: tuple[str, ...] | None = None
    by_memory: bool = False

    def images_at_once(self, passes: Callable[[int], object]) -> int:
        """`batch_size`; where nobody has asked for it, on a card, as many as its memory has room for.

        Args:
            passes: sends so many images through the network as they will be.
        """
        if not self.by_memory or self.device.type != "cuda":
            return self.batch_size
        return samples_at_once(passes, self.device, min(MOST, MOST_BYTES // math.prod(self.transform.input_size)))

    def in_full_precision(self) -> "Model":
        """The same model in full precision: what decides whether something is exact must not round by itself."""
        return replace(self, amp="none")

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b c h w"], of: str = "the images") -> Outputs:
        """Logits and features of normalised images, as many at a time as there is room for, as float32 on the CPU.

        Args:
            of: what the images are, for the message.

        Raises:
            ModelError: not all of it are finite numbers.
        """
        parts: list[Outputs] = []

        def ask(start: int, stop: int) -> None:
            chunk = images[start:stop]
            logits, features = self.forward(chunk)
            parts.append(Outputs(None if logits is None else logits.cpu(), features.cpu()))
            require_finite_answers(self, parts[-1], of, lambda model: model.forward(chunk))

        size = self.batch_size
        if len(images) > size:  # fewer are not worth a trial
            size = self.images_at_once(lambda count: self.forward(images[:1].expand(count, -1, -1, -1)))
        in_chunks(ask, len(images), size)
        logits = [part.logits for part in parts if part.logits is not None]
        return Outputs(torch.cat(logits) if logits else None, torch.cat([part.features for part in parts]))

    def predict(self, images: Float[Tensor, "b c h w"]) -> Outputs:
        """Logits and features of images in [0, 1] of the model's input size, as of the call."""
        return self(self.transform.to_normalized(images))

    @full_precision  # but for what `amp` asks for
    def forward(self, images: Float[Tensor, "b c h w"]) -> Outputs:
        """One forward pass, whose outputs stay on the device, as float32, with gradients where the caller wants them.

        The features are whatever reaches the classifier, or the output of a model without one.
        """
        seen: list[Tensor] = []
        head = classifier_of(self.module)
        module = rewired(self.module, {head: standing_in(head, _noting(head, seen))}) if head else self.module
        kind = AMP_TYPES.get(self.amp)
        with ordinary_tensors(), torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            answer = module(ordinary(images).to(self.device, torch.float32))
            features = (seen[0] if seen else answer).flatten(1).float()
            seen.clear()
            return Outputs(answer.float() if head else None, features)

    @property
    def num_classes(self) -> int:
        """How many classes the model tells apart; 0 without a head."""
        return int(getattr(self.module, "num_classes", 0))

    @property
    def has_head(self) -> bool:
        return classifier_of(self.module) is not None

    def answer(self, index: int, probability: float | None) -> dict[str, Any]:
        """The keys of JSON documents for a class that was predicted."""
        return {"class": index, "label": self.label(index), "probability": probability}

    def label(self, index: int) -> str | None:
        return self.labels[index] if self.labels and index < len(self.labels) else None

    def stem(self) -> Stem:
        """How the network reads the image.

        Raises:
            ModelError: the model does not accept an image of its own input size.
        """
        try:
            return find_stem(self.module, self.transform.input_size)
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            size = " x ".join(map(str, self.transform.input_size))
            raise ModelError(f"{self.name} does not accept an image of {size}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """The keys about the model that every JSON document carries."""
        return {
            "model": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "data_config": asdict(self.transform),
            "device": str(self.device),
        }


def _noting(layer: nn.Module, seen: list[Tensor]) -> Callable[..., Any]:
    """What the layer answers; its first input goes to `seen`."""

    def forward(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(first)
        return layer(first, *args, **kwargs)

    return forward


PRECISIONS = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}


def require_finite_answers(
    model: Model, outputs: Iterable[Tensor | None], of: str | Sequence[str], ask: Callable[[Model], object]
) -> None:
    """See that what a model says are numbers.

    Args:
        outputs: what lies on a card is waited for.
        of: what the model was shown, or what in each row, for the message.
        ask: asks a copy of the model the same once more.

    Raises:
        ModelError: they are not all finite.
    """
    for values in outputs:
        if values is not None and not bool(values.isfinite().all()):
            row = int(values.isfinite().flatten(1).all(1).logical_not().nonzero()[0])
            raise not_finite(model, of if isinstance(of, str) else of[row], ask)


def not_finite(model: Model, of: str, ask: Callable[[Model], object]) -> ModelError:
    """Of outputs that are not finite: which part of the network is the first to be so, and what to do.

    Args:
        of, ask: as of `require_finite_answers`.
    """

    def first(asked: Model) -> str | None:
        return first_not_finite(asked.module, lambda module: ask(replace(asked, module=module)))

    where, weights = first(model), f"Check the weights ({model.weights}), and what the model is shown."
    hint = 'Use `amp="none"`: in float32 all are finite.' if model.amp != "none" else weights
    if model.amp != "none" and first(model.in_full_precision()) is not None:
        hint = f"Nor are they in float32. {weights}"
    found = f"the first to hold such is {where}" if where else "asked again, it answers with finite ones"
    return ModelError(
        f"{model.name} answers {of} with numbers that are not finite, in {PRECISIONS[model.amp]}: {found}.", hint=hint
    )


@dataclass(frozen=True)
class ModelView:
    """How a model looks at images: all that is known of it without its weights.

    Attributes:
        name: as `Model.name`.
        transform: the same as `Model.transform`.
        has_head: the same as `Model.has_head`.
    """

    name: str
    transform: EvalTransform
    has_head: bool

    def describe(self) -> dict[str, Any]:
        """The keys of `Model.describe`; no weights were read, and nothing was put on a device."""
        return {
            "model": self.name,
            "weights": None,
            "weights_sha256": None,
            "data_config": asdict(self.transform),
            "device": "cpu",
        }


def classifier_of(module: nn.Module) -> nn.Module | None:
    """The layer that turns features into logits; the first one where a distilled model has two."""
    if getattr(module, "num_classes", 0) == 0:
        return None
    head = module.get_classifier()  # type: ignore[operator]
    head = head[0] if isinstance(head, tuple | list | nn.ModuleList) else head
    return head if isinstance(head, nn.Module) and not isinstance(head, nn.Identity) else None
