"""Gradients with respect to pixels: what any differentiable model offers. Space: normalised images.

The signed attributions [b, c, h, w] come first; the maps are made of them. An image's map depends on no other image of
its batch.

Zero in normalised space, the mean colour, stands for "nothing there" throughout: it is what input x gradient measures
from implicitly, so integrated gradients take it as their baseline too. (Black, the other custom, would make dark pixels
irrelevant by definition.)
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.autograd import differentiating, ordinary_tensors
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.transforms.eval_transform import per_channel

IG_STEPS = 50
SMOOTHGRAD_SAMPLES = 25
SMOOTHGRAD_NOISE = 0.15
"""Standard deviation of SmoothGrad's noise, as a share of the range of pixels, [0, 1]."""


def explained(model: Model, answer: Float[Tensor, "b k"], classes: Int[Tensor, " b"] | None) -> Float[Tensor, " b"]:
    """The scalar that is explained, image by image: the logit of its class; 0.5 ||features||^2 without a head.

    Args:
        answer: what the module said.
        classes: None for each image's own top-1 class. Without a head it plays no part.
    """
    if not model.has_head:
        return 0.5 * answer.flatten(1).square().sum(1)
    chosen = answer.argmax(1) if classes is None else classes.to(answer.device)
    return answer.gather(1, chosen[:, None])[:, 0]


def precision(model: Model) -> torch.dtype:
    """That of the module's parameters."""
    return next(model.module.parameters()).dtype


@differentiating
def pixel_gradients(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b c h w"]:
    """g = dS/dx, of the explained scalar S by the normalised image x (Simonyan et al. 2014), signed.

    In the module's own precision whatever the model's `amp`, `batch_size` images or fewer at a time.

    Returns:
        float64, on the CPU.
    """
    parts = []

    def differentiate(start: int, stop: int) -> None:
        chunk = slice(start, stop)
        x = images[chunk].detach().to(model.device, precision(model), copy=True).requires_grad_(True)
        scalars = explained(model, model.module(x), None if classes is None else classes[chunk])
        (gradient,) = torch.autograd.grad(scalars.sum(), x)
        parts.append(gradient.double().cpu())

    in_chunks(differentiate, len(images), model.batch_size)
    return torch.cat(parts)


def input_x_gradients(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b c h w"]:
    """x * dS/dx (Shrikumar et al. 2016), signed: float64, on the CPU."""
    return images.double().cpu() * pixel_gradients(model, images, classes)


def path_gradients(
    model: Model,
    images: Float[Tensor, "b c h w"],
    classes: Int[Tensor, " b"] | None = None,
    *,
    steps: int = IG_STEPS,
) -> Float[Tensor, "b c h w"]:
    """x * the integral over t in [0, 1] of dS/dx(t x) (Sundararajan et al. 2017, eq. 1, baseline 0), signed.

    By Gauss and Legendre's rule. Completeness: an image's attributions sum to S(x) - S(0), up to the rule's error.

    Returns:
        float64, on the CPU.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    t, w = (torch.from_numpy(values).reshape(-1, 1, 1, 1) for values in ((nodes + 1) / 2, weights / 2))
    x = images.double().cpu()
    means = [
        (w * pixel_gradients(model, t * image, index)).sum(0)
        for image, index in zip(x, _repeated(model, x, classes, steps), strict=True)
    ]
    return x * torch.stack(means)


def smooth_gradients(
    model: Model,
    images: Float[Tensor, "b c h w"],
    classes: Int[Tensor, " b"] | None = None,
    *,
    samples: int = SMOOTHGRAD_SAMPLES,
    noise: float = SMOOTHGRAD_NOISE,
    seed: int = 0,
) -> Float[Tensor, "b c h w"]:
    """The mean of dS/dx(x + n) over Gaussian noise n (Smilkov et al. 2017), signed.

    The class is that of the clean image. The noise is drawn from `seed`, the same for every image of a size; its
    standard deviation is a share of the range that pixels can take, not of the image's own, so that images are compared
    under equal noise.

    Returns:
        float64, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(samples, *images.shape[1:], generator=generator, dtype=torch.float64)
    offsets = normal * noise / per_channel(model.transform.std, normal)
    x = images.double().cpu()
    means = [
        pixel_gradients(model, image + offsets, index).mean(0)
        for image, index in zip(x, _repeated(model, x, classes, samples), strict=True)
    ]
    return torch.stack(means)


def gradient(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b h w"]:
    """The largest |dS/dx| over a pixel's channels (Simonyan et al. 2014, section 3.1): float64, on the CPU."""
    return _sensitivity(pixel_gradients(model, images, classes))


def smoothgrad(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b h w"]:
    """The largest |mean dS/dx| over a pixel's channels (Smilkov et al. 2017): float64, on the CPU."""
    return _sensitivity(smooth_gradients(model, images, classes))


def input_x_gradient(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b h w"]:
    """|sum over a pixel's channels of x * dS/dx| (Shrikumar et al. 2016): float64, on the CPU."""
    return _contribution(input_x_gradients(model, images, classes))


def integrated_gradients(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b h w"]:
    """|sum over a pixel's channels of its integrated gradients| (Sundararajan et al. 2017): float64, on the CPU."""
    return _contribution(path_gradients(model, images, classes))


def _repeated(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None, count: int
) -> list[Int[Tensor, " count"] | None]:
    """The class of each clean image, `count` times over; None without a head, where there is no class."""
    if not model.has_head:
        return [None] * len(images)
    if classes is None:
        with ordinary_tensors(), torch.no_grad():
            parts: list[Tensor] = []

            def predict(start: int, stop: int) -> None:
                chunk = images[start:stop].to(model.device, precision(model))
                parts.append(model.module(chunk).argmax(1))

            in_chunks(predict, len(images), model.batch_size)
            classes = torch.cat(parts)
    return [index.expand(count) for index in classes]


def _sensitivity(gradients: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """How far the scalar moves with a pixel at most: signs of a slope say nothing about where the model looks."""
    return gradients.abs().amax(1)


def _contribution(attributions: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """How much of the scalar a pixel accounts for: shares of it add up over channels, sign and all."""
    return attributions.sum(1).abs()
