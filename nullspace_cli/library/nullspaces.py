"""The nullspace of a first layer, exact or near, and what the network says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ModelError, NoNullspaceError, UsageError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import PatchBasis
from nullspace_cli.engine.nullspace.basis_file import save_basis
from nullspace_cli.engine.nullspace.check import Check, check_basis
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.near_basis import NearBasis, find_basis_within
from nullspace_cli.engine.nullspace.nullity import Nullity
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, Space, sample_null
from nullspace_cli.engine.nullspace.stem_basis import StemBasis
from nullspace_cli.engine.nullspace.stem_basis_file import save_stem_basis
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.library.arguments import (
    require_choice,
    require_count,
    require_generator,
    require_model,
    require_number,
    seed_of,
    wrong,
)
from nullspace_cli.library.inputs import require_batch


class Nullspace:
    """{v : W v = 0}, the nullspace of a patch embedding, or of any matrix (paper, section 3).

    Attributes:
        rtol: singular values at or below `rtol` times the largest count as zero.
        space: "pixel" for differences of images in [0, 1], "normalized" for those of normalised ones.
    """

    def __init__(self, found: PatchBasis, model: Model | None, *, flat: bool, per_channel: bool) -> None:
        self._found, self._model, self._flat, self._per_channel = found, model, flat, per_channel
        self.rtol: float = found.nullspace.rtol
        self.space: Space = found.nullspace.space

    @property
    def basis(self) -> Float[Tensor, "nullity ..."]:
        """[nullity, c, r_h, r_w] orthonormal, float64; [nullity, n] of a matrix [d, n]. Unique up to a rotation."""
        basis = self._found.nullspace.basis
        return basis.flatten(1) if self._flat else basis

    @property
    def row_space(self) -> Float[Tensor, "rank ..."]:
        """[rank, ...] orthonormal rows that span what the layer reads, by falling singular value."""
        rows = self._found.nullspace.row_space
        return rows.flatten(1) if self._flat else rows

    @property
    def singular_values(self) -> Float[Tensor, "..."]:
        """[min(d, n)], or [c, min(d, r_h r_w)] where each channel was taken alone."""
        return self._found.nullspace.singular_values

    @property
    def rank(self) -> int:
        return self._found.nullspace.rank

    @property
    def nullity(self) -> int:
        return self._found.nullspace.nullity

    def project(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The part of x that the layer does not see, patch by patch.

        Args:
            x: floats: images [..., c, h, w], of which what whole patches leave over goes as it is (the layer does not
                read it); or patches as vectors, [n] or [p, n]. Of a matrix, vectors [..., n]. In the units of `space`.

        Raises:
            UsageError: x has another number of channels, or of entries, or is no floats.
        """
        patch_map, nullspace = self._found
        n, floats = patch_map.patch_dim, isinstance(x, Tensor) and x.is_floating_point()
        # By the number of dimensions and not by the last: an image may be as wide as a patch has numbers.
        if floats and (self._flat or x.ndim in (1, 2)) and x.ndim and x.shape[-1] == n:
            return nullspace.project(x)
        if not floats or self._flat or x.ndim < 3 or x.shape[-3] != patch_map.in_chans:
            images = f"[{n}], [p, {n}] or images [..., {patch_map.in_chans}, h, w]"
            raise wrong("x", x, f"floats {f'[..., {n}]' if self._flat else images}")
        return patch_map.unpatchify(nullspace.project(patch_map.patchify(x)), x)

    def sample(
        self, size: tuple[int, int] | None = None, *, rms: float | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Noise from the nullspace: standard normal coefficients of the basis (section 3.2).

        Args:
            size: (h, w) of an image, patch by patch [c, h, w], 0 where no whole patch is. None: one vector, of the
                shape of those of `basis`; of an `ImageNullspace` an image.
            rms: root mean square of the result; None leaves it as it comes, with norm sqrt(nullity) a patch.
            generator: of the CPU; None for one that is seeded with 0.

        Raises:
            UsageError: there is no image of a matrix, or no whole patch in one of this size; or a number is none.
        """
        if generator is not None:
            require_generator(generator)
        if rms is not None:
            require_number("rms", rms, above=0)
        source = torch.Generator().manual_seed(0) if generator is None else generator
        noise = self._sample(size, source)
        return noise if rms is None else noise * (rms / noise.square().mean().sqrt())

    def _sample(self, size: tuple[int, int] | None, source: torch.Generator) -> Tensor:
        basis = self._found.nullspace.basis
        if size is None:
            coefficients = torch.randn(self.nullity, generator=source, dtype=basis.dtype)
            return (coefficients @ basis.flatten(1)).reshape(self.basis.shape[1:])
        if self._flat:
            raise UsageError("The nullspace of a matrix has no images; leave size out.")
        _require_patch(size, self._found.patch_map.patch_size)
        return sample_null(basis, size, source)

    def save(self, path: Path | str, *, compact: bool = False, overwrite: bool = False) -> Path:
        """Write what `vitnull basis` writes, which all commands read.

        Args:
            compact: leave `basis` out, which `row_space` determines.

        Raises:
            UsageError: it is the nullspace of a weight, which belongs to no model.
            ArtifactError: the file cannot be written, or is there already.
        """
        if self._model is None:
            raise UsageError("A weight alone names no model that the file would belong to. Find the model's nullspace.")
        return save_basis(
            Path(path), self._model, self._found, per_channel=self._per_channel, compact=compact, force=overwrite
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON of `vitnull basis` that describe the nullspace."""
        return self._found.describe()

    def _for(self, model: Model) -> PatchBasis | ImageNoise:
        """What is held against a model.

        Raises:
            UsageError: it is not one of what the model reads.
        """
        size = model.transform.input_size
        if self._flat or self._found.patch_map.in_chans != size[0]:
            raise UsageError(f"The nullspace is not one of patches with {size[0]} channels, which {model.name} reads.")
        _require_patch(size[1:], self._found.patch_map.patch_size)
        return self._found

    def __repr__(self) -> str:
        return f"<Nullspace rank {self.rank}, nullity {self.nullity}, {self.space} space>"


class ImageNullspace(Nullspace):
    """The nullspace of first layers that read images as a whole: windows that overlap, branches, resizes within.

    It has too many dimensions for a basis: `project` and `sample` are what there is of it. Images have the model's own
    size, `image_size`.
    """

    def __init__(self, found: StemBasis | NearBasis, model: Model) -> None:
        self._whole, self._model = found, model
        self.rtol, self.space = found.rtol, found.space

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        return self._whole.image_map.input_size

    @property
    def basis(self) -> NoReturn:
        """Refused: there are only operators."""
        raise self._refused("basis")

    @property
    def row_space(self) -> NoReturn:
        """Refused: what is read of an image x is x - project(x)."""
        raise self._refused("row_space")

    @property
    def singular_values(self) -> NoReturn:
        """Refused; `to_dict()` has the largest."""
        raise self._refused("singular_values")

    @property
    def rank(self) -> int:
        return self._counted().rank

    @property
    def nullity(self) -> int:
        return self._counted().nullity

    def project(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The part of images [..., c, h, w] that the layers do not see, in the units of `space`; found in float64.

        Raises:
            UsageError: x is no floats, or no images of that size.
            ArtifactError: the part cannot be had to within its tolerance.
        """
        assert isinstance(self._whole, StemBasis)
        return self._of_images(self._whole.project, x)

    def save(self, path: Path | str, *, compact: bool = False, overwrite: bool = False) -> Path:
        """Write what `vitnull basis` writes, which all commands read.

        Args:
            compact: nothing: it is compact.

        Raises:
            ArtifactError: the file cannot be written, or is there already.
        """
        assert self._model is not None
        return save_stem_basis(Path(path), self._model, self._whole, force=overwrite)

    def to_dict(self) -> dict[str, Any]:
        return self._whole.describe()

    def _sample(self, size: tuple[int, int] | None, source: torch.Generator) -> Tensor:
        if size is not None and tuple(size) != self.image_size[1:]:
            raise wrong("size", size, f"{self.image_size[1:]}, or None for it")
        return self._whole.sample(source)

    def _for(self, model: Model) -> PatchBasis | ImageNoise:
        if model.transform.input_size != self.image_size:
            own, reads = (" x ".join(map(str, size)) for size in (self.image_size, model.transform.input_size))
            raise UsageError(f"The nullspace is one of images of {own}; {model.name} reads {reads}.")
        return self._whole

    def _counted(self) -> Nullity:
        assert isinstance(self._whole, StemBasis)
        return self._whole.counted

    def _of_images(
        self, apply: Callable[[Float[Tensor, "b c h w"]], Tensor], x: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[-3:] != self.image_size:
            raise wrong("x", x, f"floats [..., {', '.join(map(str, self.image_size))}]")
        flat = x.detach().double().cpu().reshape(-1, *self.image_size)
        return apply(flat).reshape(x.shape).to(x)

    def _refused(self, name: str) -> UsageError:
        return UsageError(
            f"There is no {name} of {self.nullity} dimensions of whole images: the first layers read no patches of "
            "their own. Use `project` and `sample`."
        )


class NearNullspace(ImageNullspace):
    """What first layers that read images as a whole read by at most `rtol` times the most that they can.

    It is had as a filter, which leaves less and less of a direction the more that is read of it: `filter` and `sample`
    are what there is of it, and of what comes of them at most `output_bound` times the norm is read.
    """

    def __init__(self, found: NearBasis, model: Model) -> None:
        super().__init__(found, model)
        self._near = found

    @property
    def output_bound(self) -> float:
        """||A v|| / ||v||, at most: proven for all that is filtered, in the units of `space`."""
        return self._near.output_bound

    def filter(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """What is hardly read of images [..., c, h, w], in the units of `space`; found in float64.

        Raises:
            UsageError: x is no floats, or no images of that size.
            ArtifactError: hardly anything is left of one.
        """
        return self._of_images(self._near.filter, x)

    def project(self, x: Float[Tensor, "*batch"]) -> NoReturn:
        """Refused: see `filter`."""
        raise self._refused("projection")

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON of `vitnull basis` that describe it; its dimensions are counted for that."""
        counted = self._near.counted
        return {**self._near.describe(), **(counted.describe() if counted else {})}

    def _counted(self) -> Nullity:
        if self._near.counted is None:
            raise UsageError("The dimensions of what is hardly read are too much work to count at this size.")
        return self._near.counted

    def _refused(self, name: str) -> UsageError:
        return UsageError(f"There is no {name} of what is hardly read of whole images. Use `filter` and `sample`.")

    def __repr__(self) -> str:
        return f"<NearNullspace rtol {self.rtol:g}, output_bound {self.output_bound:.3g}, {self.space} space>"


@full_precision
def find_nullspace(
    model_or_weight: Model | Tensor, *, space: Space = "pixel", rtol: float | None = None, per_channel: bool = False
) -> Nullspace:
    """The nullspace of a model's first layers, or of a weight.

    Where a model reads patches it is that of each patch. Of other first layers that are affine it is one of whole
    images, an `ImageNullspace`, which has no `basis`; or with an `rtol` of 0.001 or more a `NearNullspace`.

    Args:
        model_or_weight: a weight is a convolution's kernel [d, c, r_h, r_w], or a matrix [d, n]; it acts on whatever
            it is given, so that its space is that.
        rtol: singular values at or below `rtol` times the largest count as zero; None for the machine epsilon of the
            precision that the weights are stored in. Of whole images less than 0.001 is of the kernels' alone.
        per_channel: the paper's rule (section 3.1): noise that touches one channel at a time. The joint nullspace
            contains it and is larger.

    Raises:
        NoNullspaceError: the model does not start with an affine map, or the map is injective; or reads next to
            everything by more than `rtol`.
        UsageError: a weight is not of such a shape, or not finite; or a setting makes no sense.
        ModelError: the map is zero.
    """
    require_choice("space", space, ("pixel", "normalized"))
    if rtol is not None:
        require_number("rtol", rtol, least=0)
        if rtol >= 1:
            raise UsageError(f"rtol is {rtol}; expected a number below 1, which counts all singular values as zero.")
    if isinstance(model_or_weight, Model):
        basis = find_basis_within(model_or_weight, space=space, rtol=rtol, per_channel=per_channel)
        if isinstance(basis, NearBasis):
            return NearNullspace(basis, model_or_weight)
        if isinstance(basis, StemBasis):
            return ImageNullspace(basis, model_or_weight)
        return Nullspace(basis, model_or_weight, flat=False, per_channel=per_channel)
    weight = model_or_weight
    floats = isinstance(weight, Tensor) and weight.is_floating_point()
    if not floats or weight.ndim not in (2, 4) or weight.numel() == 0:
        raise wrong("weight", weight, "a Model, or floats [d, n] or [d, c, r_h, r_w]")
    if not bool(weight.isfinite().all()):
        raise UsageError("weight holds values that are not finite.")
    if not bool(weight.any()):
        raise ModelError("weight is all 0: it reads nothing.")
    flat = weight.ndim == 2
    patch_map = PatchMap.from_weight(
        weight[:, None, None] if flat else weight, (1.0,) * (1 if flat else weight.shape[1])
    )
    basis = PatchBasis(patch_map, patch_map.nullspace(space, rtol, per_channel=per_channel))
    if basis.nullspace.nullity == 0:
        raise NoNullspaceError(
            f"The weight {list(weight.shape)} has full rank {basis.nullspace.rank} and no nullspace.", basis.describe()
        )
    return Nullspace(basis, None, flat=flat, per_channel=per_channel)


def check_nullspace(
    model: Model,
    nullspace: Nullspace,
    *,
    images: Float[Tensor, "b c h w"] | None = None,
    rms: float = 0.1,
    generator: torch.Generator | None = None,
) -> Check:
    """Ask the network itself: images, the same with noise from the nullspace, and with random noise of equal norm.

    Args:
        nullspace: of this model, or any other that is claimed to be one for it.
        images: in [0, 1], of the model's input size; None for smooth random ones.
        rms: root mean square of the noise, in [0, 1] pixel units.
        generator: None for one that is seeded with 0.

    Returns:
        `.passed`: whether null noise moves the answer by a millionth of what random noise does, or less (mean squared
        change); None where random noise moves nothing either. `.null_logit_mse`, `.random_logit_mse`, `.residual`.

    Raises:
        UsageError: the images, or the nullspace, are not for this model's input.
        ModelError: the answers are not finite.
    """
    require_model(model)
    if not isinstance(nullspace, Nullspace):
        raise wrong("nullspace", nullspace, "a Nullspace, as find_nullspace gives it")
    require_number("rms", rms, above=0)
    basis = nullspace._for(model)
    seed = seed_of(generator)
    x = None if images is None else require_batch(model, images).cpu().float()
    return check_basis(model, basis, seed=seed, std=rms, images=x)


def _require_patch(size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """See that an image holds a patch: noise without one is all 0."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise wrong("size", size, "(height, width)")
    for name, length, least in zip(("height", "width"), size, patch_size, strict=True):
        require_count(f"size's {name}", length, least=least)
