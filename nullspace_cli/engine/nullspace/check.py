"""What the network itself says of a nullspace: exact null noise against random noise of equal norm."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import PatchBasis
from nullspace_cli.engine.nullspace.image_noise import ImageNoise
from nullspace_cli.engine.nullspace.sampling import equal_norm_noise
from nullspace_cli.engine.runtime.precision import full_precision

PROBES = 4
"""Images that the network is shown, unless others are given."""


@dataclass(frozen=True)
class Check:
    """What the network itself says: exact null noise against random noise of equal norm.

    Attributes:
        passed: None where random noise moves nothing either, so that the check says nothing.
        null_logit_mse, random_logit_mse: squared change summed over the outputs, mean over the probe images.
        null_change, random_change: the change's Euclidean norm, mean over the probe images, for each unit of the
            noise's, in [0, 1] pixels.
        residual: largest ||A v|| over the basis vectors v, or where there is no basis that of the noise, relative to
            ||A|| ||v||.
        outputs: "logits", or "features" for a model without a head.
    """

    passed: bool | None
    null_logit_mse: float
    random_logit_mse: float
    null_change: float
    random_change: float
    residual: float
    outputs: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_images(model: Model, count: int, seed: int) -> Float[Tensor, "count c h w"]:
    """Smooth random images in pixel space [0, 1], for models of any channel count and size."""
    c, h, w = model.transform.input_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, c, 8, 8, generator=generator)
    return F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False).clamp(0, 1)


@full_precision
def check_basis(
    model: Model,
    basis: PatchBasis | ImageNoise,
    *,
    seed: int = 0,
    std: float = 0.1,
    images: Float[Tensor, "b c h w"] | None = None,
) -> Check:
    """Run the network on images, on the same with exact null noise, and with random noise of equal norm.

    In full precision whatever the model's `amp`: half precision alone would move the output by more than the bound.

    Args:
        std: root mean square of the noise, in [0, 1] pixel units.
        images: in [0, 1]; None for smooth random ones.
    """
    x = probe_images(model, PROBES, seed) if images is None else images
    null = basis.pixel_noise(model.transform.input_size[1:], std, seed)
    random = equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    batch = torch.cat([x, x + null.float(), x + random.float()])
    outputs = model.in_full_precision()(model.transform.to_normalized(batch), "probe images with noise")
    values = outputs.answer.double()
    clean, with_null, with_random = values.chunk(3)
    changes = [(other - clean).norm(dim=1) for other in (with_null, with_random)]
    null_mse, random_mse = (float(change.square().mean()) for change in changes)
    null_change, random_change = (float(change.mean() / null.norm()) for change in changes)
    informative = random_mse > 1e-9 * float(clean.square().sum(1).mean()) and random_mse > 1e-30
    return Check(
        passed=null_mse <= 1e-6 * random_mse if informative else None,
        null_logit_mse=null_mse,
        random_logit_mse=random_mse,
        null_change=null_change,
        random_change=random_change,
        residual=basis.residual(null),
        outputs="features" if outputs.logits is None else "logits",
    )
