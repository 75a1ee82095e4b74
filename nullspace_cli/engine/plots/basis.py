"""The picture of a nullspace."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.fft import dct
from torch import Tensor

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine import metrics
from nullspace_cli.engine.basis import PatchBasis, equal_norm_noise, null_noise
from nullspace_cli.engine.models import LoadedModel
from nullspace_cli.engine.nullspace import Nullspace
from nullspace_cli.engine.plots.figure import BLUE, ORANGE, save_figure
from nullspace_cli.engine.transform import from_8_bits


def draw_basis(path: Path, model: LoadedModel, basis: PatchBasis, *, seed: int = 0, force: bool = False) -> Path:
    """Draw a nullspace: the spectrum, what null noise does to an image, and filters on both sides of the divide."""
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    nullspace = basis.nullspace
    top, rows, nulls = figure.subfigures(3, 1, height_ratios=[2.1, 1, 1], squeeze=False)[:, 0]
    figure.suptitle(
        f"{model.name}: patch embedding {basis.patch_map.patch_dim} → {basis.patch_map.embed_dim}, "
        f"rank {nullspace.rank}, nullity {nullspace.nullity}",
        fontsize=13,
    )
    axes = top.subplots(1, 4, gridspec_kw={"width_ratios": [1.7, 1, 1, 1]})
    _draw_spectrum(axes[0], basis)
    _draw_noise(axes[1:], model, basis, seed)
    rows.suptitle("What the network reads: row space, largest singular values", fontsize=11)
    _draw_patches(rows.subplots(1, 12), nullspace.row_space[:12])
    nulls.suptitle("What it cannot see: null vectors of the lowest spatial frequencies", fontsize=11)
    _draw_patches(nulls.subplots(1, 12), smoothest_null_vectors(nullspace, 12))
    return save_figure(path, figure, force=force)


def smoothest_null_vectors(nullspace: Nullspace, count: int) -> Float[Tensor, "count c rh rw"]:
    """Null vectors made of low spatial frequencies only, as few of them as leave `count` such vectors.

    A basis of the nullspace is arbitrary up to rotation; these vectors are a choice that can be looked at. The lowest
    rank + count frequencies (DCT) and the nullspace, of dimension n - rank, meet in at least `count` dimensions.
    """
    _, c, rh, rw = nullspace.row_space.shape
    n = c * rh * rw
    count = min(count, nullspace.nullity)
    vertical, horizontal = (dct(np.eye(size), norm="ortho", axis=0) for size in (rh, rw))
    frequency = (np.arange(rh)[:, None] / rh) ** 2 + (np.arange(rw)[None, :] / rw) ** 2
    order = np.argsort(np.broadcast_to(frequency, (c, rh, rw)), axis=None, kind="stable")[: nullspace.rank + count]
    channel, u, v = np.unravel_index(order, (c, rh, rw))
    low = np.zeros((len(order), c, rh, rw))
    low[np.arange(len(order)), channel] = vertical[u][:, :, None] * horizontal[v][:, None, :]
    D = torch.from_numpy(low.reshape(len(order), n))
    seen = nullspace.row_space.flatten(1) @ D.mT
    # Eigenvalues of D R^T R D^T are squared cosines to the row space: the smallest belong to null vectors.
    _, vectors = torch.linalg.eigh(seen.mT @ seen)
    return (vectors[:, :count].mT @ D).unflatten(1, (c, rh, rw))


def _draw_spectrum(axes: Axes, basis: PatchBasis) -> None:
    nullspace, n = basis.nullspace, basis.patch_map.patch_dim
    sigma = nullspace.singular_values
    curves = sigma if sigma.ndim == 2 else sigma[None]
    for label, curve in zip(("R", "G", "B") if len(curves) == 3 else ("",) * len(curves), curves, strict=True):
        axes.semilogy(np.arange(1, len(curve) + 1), curve.clamp_min(1e-12), color=BLUE, lw=1.8, label=label or None)
    edge, end = (nullspace.rank, n) if sigma.ndim == 1 else (curves.shape[1], n // len(curves))
    axes.axvspan(edge, end, color=ORANGE, alpha=0.18, lw=0)
    axes.text(
        (edge + end) / 2,
        float(sigma.max()) ** 0.5 * float(sigma.min()) ** 0.5,
        f"nullspace\n{nullspace.nullity}",
        ha="center",
        va="center",
        color=ORANGE,
        fontsize=11,
    )
    axes.set(xlim=(0, end), xlabel="direction", ylabel="singular value", title="Spectrum")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_noise(axes: np.ndarray, model: LoadedModel, basis: PatchBasis, seed: int) -> None:
    """An image alone, with null noise and with random noise of equal norm, each with what it does to the output."""
    c, h, w = model.transform.input_size
    side = max(h, w)
    pixels, _ = draw("val", 4 + 10 * seed, size=side)
    image = from_8_bits(pixels)[:, :h, :w]
    image = image if c == 3 else image.mean(0, keepdim=True).expand(c, h, w)
    null = null_noise(basis.pixel_basis, (h, w), 0.1, seed)
    random = equal_norm_noise(null, torch.Generator().manual_seed(seed + 1))
    pictures = torch.stack([image, image + null, image + random])
    outputs = model.exact()(model.transform.to_normalized(pictures.float()))
    values = outputs.answer
    titles = ["image", "+ null noise", "+ random noise, same norm"]
    what = "features" if outputs.logits is None else "logits"
    for axis, picture, title, value in zip(axes, pictures, titles, values, strict=True):
        axis.imshow(_displayable(picture.clamp(0, 1)))
        change = metrics.relative_change(values[0], value)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(
            f"{what} change {change:.2g}" if change is not None and axis is not axes[0] else " ", fontsize=10
        )
        axis.set(xticks=[], yticks=[])


def _draw_patches(axes: np.ndarray, patches: Float[Tensor, "k c rh rw"]) -> None:
    for axis in axes:
        axis.set_axis_off()
    for axis, patch in zip(axes, patches, strict=False):
        axis.imshow(_displayable(0.5 + 0.5 * patch / patch.abs().max()), interpolation="nearest")


def _displayable(image: Float[Tensor, "c h w"]) -> np.ndarray:
    """[h, w, 3] for colour; the mean over channels, as grey, for any other number of channels."""
    image = image if image.shape[0] == 3 else image.mean(0, keepdim=True).expand(3, *image.shape[1:])
    return image.permute(1, 2, 0).numpy()
