"""Images that look like a target to a person and are the source to the network (paper, section 7 and A.3).

Unbounded, the float image at the size of the model's input is the result, and a PNG of it a clipped preview. Bounded,
it is a valid 8-bit image, made by the solvers of watermarks: at model size, or at the source's own, where the network's
8-bit input stays the source's to the last bit.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.adversarial.target_image import (
    Likeness,
    TargetImage,
    detail_scale,
    exaggerated,
    fit,
    likeness,
)
from nullspace_cli.engine.errors import ImageError, NoNullspaceError, UsageError
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.models.devices import resolve_device
from nullspace_cli.engine.nullspace.decomposition import count_rank
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.preimage.solver import PreimageSolvers
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.transforms.eval_transform import GREY_SHARES, EvalTransform, from_8_bits, in_rgb, to_8_bits
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.input_constraint import Channels, input_constraint, require_distance
from nullspace_cli.engine.watermark.model_size import ModelSize
from nullspace_cli.engine.watermark.native_size import NativeSize
from nullspace_cli.engine.watermark.result import Nullspace, Pixels, Rounding

STRENGTHS = (1.0, 1.5, 2.0, 3.0)
"""What "auto" tries at model size."""

NATIVE_STRENGTH = 2.0
"""What "auto" is at native size, where a try takes half a minute and makes little difference."""


@dataclass(frozen=True, eq=False)
class AttackSolution:
    """A result, and the source and the target at its size.

    Attributes:
        image, source, target: [3, H, W] in pixel space; `image` is the solution before any rounding.
        pixels: the 8-bit result; unbounded, the preview: the image clipped to [0, 1].
        bounded: whether `pixels` is the result.
        strength: of the target's detail.
        grey: whether the network reads pictures in grey.
        view: what the network sees of pictures of this size; None where it reads them as they are.
        solver: the certificate: norm, status, iterations, gap, residual, bound_violation, and what was left unmarked.
    """

    image: Float[Tensor, "3 H W"]
    source: Float[Tensor, "3 H W"]
    target: Float[Tensor, "3 H W"]
    pixels: Pixels
    bounded: bool
    strength: float
    nullspace: Nullspace
    view: ResizeOperator | None
    solver: dict[str, Any]
    likeness: Likeness
    grey: bool

    def seen(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "c h w"]:
        """The network's input for an image, in [0, 1] pixel units and without rounding, float64."""
        image = self.read(image)
        return image if self.view is None else self.view.apply(image)

    def read(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "c H W"]:
        """The channels that the network reads of an image, or of a difference of images, float64."""
        image = image.double()
        return torch.einsum("c,chw->hw", image.new_tensor(GREY_SHARES), image)[None] if self.grey else image


@dataclass(frozen=True)
class Attack:
    """Makes images that are `source` to the network and look like `target`.

    Attributes:
        size: "model", or "native" for the source's own size, which is bounded and has p = 2 and all channels only.
        channels: "red" takes green and blue from the target as in A.3, unbounded; "all" asks for the nearest image.
        strength: multiplies the target's detail; None takes the best of STRENGTHS by `Likeness.score`.
        reading: how the network is given files.
        solvers: what all tries and sources of one size share.

    Raises:
        UsageError: the settings exclude each other.
    """

    network: LazyModel
    size: Literal["model", "native"] = "model"
    channels: Channels = "all"
    bounded: bool = True
    norm: Literal[1, 2] = 2
    strength: float | None = None
    rounding: Rounding = "aware"
    reading: Reading = "timm"
    solvers: PreimageSolvers = field(default_factory=PreimageSolvers, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.channels == "red" and self.bounded:
            raise UsageError(
                "With green and blue taken from the target, red would have to leave [0, 1] to make up for them: as a "
                "rule no valid image has the source's embeddings.",
                hint='Use `bounded=False`, or `channels="all"`.',
            )
        if self.channels == "red" and self.strength not in (None, 1):
            raise UsageError(
                "With red alone to be changed, green and blue are the target's as they are.",
                hint="Leave `strength` out.",
            )
        if self.size == "native" and not self.bounded:
            raise UsageError(
                "At native size the result is an 8-bit file by nature.", hint='Use `bounded=True`, or `size="model"`.'
            )
        if self.size == "native" and self.norm == 1:
            raise UsageError("p = 1 is solved at the model's size.", hint='Use `size="model"`.')

    def prepare(self) -> None:
        """Load what is needed, so that what is missing shows early.

        Raises:
            ModelError: the model cannot be loaded.
            NoNullspaceError: it has no nullspace of the kind that was asked for.
        """
        self.network.transform.require_pictures()
        if self.channels == "red" and self.network.transform.input_size[0] != 3:
            raise UsageError(
                "The model reads pictures in grey, of which no channel is red.",
                hint='Use `channels="all"`.',
            )
        if self.size == "native":
            _ = self.network.model
            return
        try:
            space = self.network.first_layer
        except NoNullspaceError as error:
            raise NoNullspaceError(
                str(error), error.report, hint='Or use `size="native"`, which fools any model.'
            ) from error
        require_distance(space, self.norm, self.channels)
        if self.channels == "red" and isinstance(space, PatchSpace):
            require_full_red(space, self.network.model.name)

    def __call__(self, source: Picture, target: Pixels) -> AttackSolution:
        """Make the image; the strength that suits the pair is looked for if none was given.

        Raises:
            ImageError: the source is too elongated, or at native size too small.
            NoNullspaceError: the model has no nullspace, or not enough red for A.3.
        """
        settled = self._settled_strength()
        if settled is not None:
            return self.at(source, target, settled)
        rough = replace(self, rounding="nearest")
        tried = [rough.at(source, target, strength) for strength in STRENGTHS]
        best = max(tried, key=lambda result: result.likeness.score)
        return self.at(source, target, best.strength) if self.bounded and self.rounding == "aware" else best

    def rough(self, source: Picture, target: Pixels) -> AttackSolution:
        """One try, rounded to the nearest level: by it sources are compared, all with one strength.

        Raises:
            ImageError, NoNullspaceError: as of the call.
        """
        settled = self._settled_strength()
        return replace(self, rounding="nearest").at(source, target, 1.0 if settled is None else settled)

    def _settled_strength(self) -> float | None:
        """The strength, where it need not be looked for."""
        if self.strength is None and self.size == "native":
            return NATIVE_STRENGTH
        return 1.0 if self.strength is None and self.channels == "red" else self.strength

    @full_precision
    def at(self, source: Picture, target: Pixels, strength: float) -> AttackSolution:
        """Make the image with one strength."""
        return self._bounded(source, target, strength) if self.bounded else self._unbounded(source, target, strength)

    @full_precision
    def estimate(self, source: Picture, target: Pixels) -> float:
        """How well a source suits a target, to rank many by: the score without bounds, from one projection.

        At native size what stays is the source as the resize leaves it, where the crop reads it: the correlation of
        this, with the target around it, to the target.
        """
        transform = self.network.transform
        if self.size == "native":
            resized = transform.resize(source.pixels)
            height, width, _ = resized.shape
            wanted = transform.as_read(fit(source.turn.stored(target), width, height))
            inside = transform.seen_part(source.width, source.height, native=False)
            result = wanted.copy()
            result[inside] = resized[inside]
            return metrics.correlation(from_8_bits(result), from_8_bits(wanted)) or 0.0
        return replace(self, channels="all", norm=2)._unbounded(source, target, 1.0).likeness.score

    def _bounded(self, source: Picture, target: Pixels, strength: float) -> AttackSolution:
        network, native = self.network, self.size == "native"
        device = resolve_device(network.request.device)
        aim = TargetImage(target, strength, network.transform, native, detail_only=native or self.norm == 1)
        if native:
            _require_detail(network.transform, source)
            made = NativeSize(
                network.transform,
                aim,
                lambda: network.patches,
                "resize",
                self.rounding,
                device,
                least=0.0,
                solvers=self.solvers,
            )(source)
        else:
            (made,) = ModelSize(network.transform, network.first_layer, aim, self.norm, self.rounding, device=device)(
                [source]
            )
        height, width, _ = made.pixels.shape
        wanted = fit(source.turn.stored(target), width, height)
        sigma = detail_scale(network.transform, width, height, native=native)
        exact = made.unrounded()
        return AttackSolution(
            image=exact.image,
            source=exact.source,
            target=from_8_bits(wanted).to(exact.source),
            pixels=made.pixels,
            bounded=True,
            strength=strength,
            nullspace=made.nullspace,
            view=ResizeOperator(network.transform, width, height),
            solver=dict(made.solver),
            likeness=likeness(made.pixels, made.source, wanted, sigma),
            grey=network.transform.input_size[0] == 1,
        )

    def _unbounded(self, source: Picture, target: Pixels, strength: float) -> AttackSolution:
        transform, space = self.network.transform, self.network.first_layer
        shown = transform.input_pixels(source.pixels)
        wanted = transform.input_pixels(fit(source.turn.stored(target), source.width, source.height))
        x, t = from_8_bits(shown), from_8_bits(wanted)
        _, height, width = x.shape
        sigma = detail_scale(transform, width, height, native=False)
        asked = torch.from_numpy(np.stack([exaggerated(plane, strength, sigma) for plane in t.numpy()]))
        constraint = input_constraint(space, "nearest", torch.device("cpu"))
        kept = constraint.nearest_unbounded(x[None], asked[None], self.norm, self.channels)
        image = kept.images[0]
        preview = in_rgb(to_8_bits(image))
        return AttackSolution(
            image=image.expand(3, -1, -1),
            source=x.expand(3, -1, -1),
            target=t.expand(3, -1, -1),
            pixels=preview,
            bounded=False,
            strength=strength,
            nullspace=constraint.nullspace,
            view=None,
            solver=kept.certificates[0],
            likeness=likeness(preview, in_rgb(shown), in_rgb(wanted), sigma),
            grey=len(x) == 1,
        )


def require_full_red(space: PatchSpace, name: str) -> None:
    """See that red alone reaches every embedding, so that A_r z_r = b has a solution for every b (A.3).

    Raises:
        NoNullspaceError: the rank of A_r is smaller than that of A.
    """
    red = space.patch_map.weight[:, 0].flatten(1)
    rank = count_rank(torch.linalg.svdvals(red), max(space.patch_map.stored_eps, 1e-12))
    if rank < len(space.row_space):
        d, size = red.shape
        small = d > size
        others = ", or a model with larger patches such as vit_small_patch32_224" if small else ""
        raise NoNullspaceError(
            f"{name}: red alone cannot make up for the target's green and blue, because the red block of the patch "
            f"embedding has rank {rank} of d = {d}, with r^2 = {size} pixels a patch; A.3 needs full rank"
            f"{', and so d <= r^2' if small else ''}.",
            {"rank": rank, "embed_dim": d, "patch_pixels": size},
            hint=f'Use `channels="all"`{others}.',
        )


def _require_detail(transform: EvalTransform, source: Picture) -> None:
    """See that the transform scales the source down: what it discards is all that can change.

    Raises:
        ImageError: it does not.
    """
    width, height = transform.geometry(source.width, source.height).resized
    if width >= source.width or height >= source.height:
        raise ImageError(
            f"{source.path} has {source.width} x {source.height} pixels, and the model enlarges it to {width} x "
            f"{height}: nothing that it reads could change.",
            hint='Use a larger source, or `size="model"`.',
        )
