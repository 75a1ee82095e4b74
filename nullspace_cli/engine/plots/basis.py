"""The picture of a nullspace."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nullspace_cli.engine.nullspace.basis import PatchBasis
from nullspace_cli.engine.nullspace.near_basis import NearBasis
from nullspace_cli.engine.nullspace.preview import FILTERS, Preview
from nullspace_cli.engine.nullspace.spectrum import SHARES, Spectrum
from nullspace_cli.engine.nullspace.stem_basis import StemBasis
from nullspace_cli.engine.plots.figure import BLUE, ORANGE, plain_ticks, save_figure

LARGEST_OVER_LEAST = 1e7
"""Below, singular values are those of zero."""

TILE, GAP = 120, 10
"""Pixels of a patch, at least, and between two of them."""


def draw_basis(
    path: Path,
    model: str,
    basis: PatchBasis | StemBasis | NearBasis,
    shown: Preview,
    spectra: Sequence[Spectrum] = (),
    *,
    force: bool = False,
) -> Path:
    """Draw a nullspace: the spectrum, what null noise does to an image, and what the network reads and cannot see.

    Args:
        spectra: of each layer that reads whole images; of patches the singular values are in `basis`.
    """
    if not isinstance(basis, PatchBasis):
        return _draw_stem_basis(path, model, basis, shown, spectra, force=force)
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    nullspace = basis.nullspace
    top, rows, nulls = figure.subfigures(3, 1, height_ratios=[2.1, 1, 1], squeeze=False)[:, 0]
    figure.suptitle(
        f"{model}: patch embedding {basis.patch_map.patch_dim} → {basis.patch_map.embed_dim}, "
        f"rank {nullspace.rank}, nullity {nullspace.nullity}",
        fontsize=13,
    )
    axes = top.subplots(1, 4, gridspec_kw={"width_ratios": [1.7, 1, 1, 1]})
    _draw_spectrum(axes[0], basis)
    _draw_noise(axes[1:], shown, near=basis.near)
    rows.suptitle("What the network reads: row space, largest singular values", fontsize=11)
    _draw_patches(rows.subplots(), nullspace.row_space[:FILTERS])
    nulls.suptitle("What it cannot see: null vectors of the lowest spatial frequencies", fontsize=11)
    _draw_patches(nulls.subplots(), shown.null_vectors)
    return save_figure(path, figure, force=force)


def draw_spectra(path: Path, model: str, spectra: Sequence[Spectrum], *, force: bool = False) -> Path:
    """Draw how much first layers read where nothing is left that they do not: the curve, and the least by frequency.

    A patch's has no frequencies to tell apart, and is the curve alone.
    """
    mapped = [spectrum for spectrum in spectra if spectrum.by_frequency[..., 0].numel() > 1]
    figure = Figure(figsize=(max(8.0, 5.5 + 4 * len(mapped)), 4.4), layout="constrained")
    figure.suptitle(f"{model}: no exact nullspace; what is hardly read", fontsize=13)
    curve, *maps = figure.subplots(1, 1 + len(mapped), width_ratios=[1.4] + [1.0] * len(mapped), squeeze=False)[0]
    _draw_curves(curve, spectra, [1 / LARGEST_OVER_LEAST] * len(spectra))
    _draw_shares(curve, max(float(part.by_frequency.max()) for part in spectra))
    for k, (axes, spectrum) in enumerate(zip(maps, mapped, strict=True)):
        smallest = spectrum.smallest / spectrum.by_frequency.max()
        image = axes.imshow(100 * smallest.numpy(), cmap="viridis", vmin=0)
        axes.set_title(f"least singular value{f' of layer {k + 1}' if len(mapped) > 1 else ''}", fontsize=11)
        axes.set(xticks=[], yticks=[], xlabel="by frequency, 0 in the middle")
        figure.colorbar(image, ax=axes, label="% of the largest", shrink=0.8)
    return save_figure(path, figure, force=force)


def _draw_stem_basis(
    path: Path, model: str, basis: StemBasis | NearBasis, shown: Preview, spectra: Sequence[Spectrum], *, force: bool
) -> Path:
    figure = Figure(figsize=(15, 6.2), layout="constrained")
    top, rows = figure.subfigures(2, 1, height_ratios=[2.4, 1], squeeze=False)[:, 0]
    found = basis.describe()
    if isinstance(basis, StemBasis):
        what = f"rank {basis.counted.rank}, nullity {basis.counted.nullity} ({basis.counted.share:.1%})"
    else:
        what = f"near nullspace: at most {basis.rtol:g} of the largest is read"
    figure.suptitle(f"{model}: first layers {found['inputs']} → {found['outputs']}, {what}", fontsize=13)
    axes = top.subplots(1, 5, gridspec_kw={"width_ratios": [1.5, 1, 1, 1, 1]})
    least = basis.rtol if isinstance(basis, StemBasis) else 1 / LARGEST_OVER_LEAST
    _draw_curves(axes[0], spectra, [least] * len(spectra))
    if isinstance(basis, NearBasis):
        axes[0].axhline(basis.rtol * basis.sigma_max, color=ORANGE, lw=1.2, ls="--")
    _draw_noise(axes[1:4], shown, near=isinstance(basis, NearBasis))
    power = shown.null_power.clamp_min(1e-12)
    drawn = axes[4].imshow((power / power.max()).log10().numpy(), cmap="viridis")
    figure.colorbar(drawn, ax=axes[4], label="power, log10 of the largest's", shrink=0.7)
    axes[4].set_title("that noise by frequency", fontsize=11)
    axes[4].set(xticks=[], yticks=[], xlabel="0 in the middle")
    span = "kernels that span those" if isinstance(basis, StemBasis) else "kernels"
    rows.suptitle(f"What the network reads: {span} of its first layer", fontsize=11)
    _draw_patches(rows.subplots(), basis.image_map.branches[0].kernel[:FILTERS])
    return save_figure(path, figure, force=force)


def _draw_curves(axes: Axes, spectra: Sequence[Spectrum], least: Sequence[float]) -> None:
    """The singular values of each layer, the largest first, down to a share of it."""
    drawn: list[float] = []
    for k, (spectrum, color, share) in enumerate(zip(spectra, itertools.cycle((BLUE, ORANGE)), least, strict=False)):
        values = spectrum.sorted
        kept = (values > share * values.max()).numpy()
        axes.semilogy(np.linspace(0, 100, len(values))[kept], values[kept], color=color, lw=1.8, label=f"layer {k + 1}")
        drawn += (float(values[kept].max()), float(values[kept].min()))
    if len(spectra) > 1:
        axes.legend(frameon=False, loc="upper right")
    plain_ticks(axes.yaxis, drawn)
    closed = ", edges closed" if any(spectrum.by_frequency[..., 0].numel() > 1 for spectrum in spectra) else ""
    axes.set(xlim=(0, 100), xlabel="% of all directions", ylabel="singular value", title=f"Spectrum{closed}")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_shares(axes: Axes, largest: float) -> None:
    """Lines at shares of the largest singular value."""
    for share in SHARES[:3]:
        axes.axhline(share * largest, color="0.6", lw=0.8, ls="--")
        axes.annotate(
            f"{share:.0%} of the largest",
            (0.01, share * largest),
            xycoords=axes.get_yaxis_transform(),
            color="0.4",
            va="bottom",
            fontsize=8,
        )


def _draw_spectrum(axes: Axes, basis: PatchBasis) -> None:
    nullspace, n = basis.nullspace, basis.patch_map.patch_dim
    sigma = nullspace.singular_values
    curves = sigma if sigma.ndim == 2 else sigma[None]
    for label, curve in zip(("R", "G", "B") if len(curves) == 3 else ("",) * len(curves), curves, strict=True):
        axes.semilogy(np.arange(1, len(curve) + 1), curve.clamp_min(1e-12), color=BLUE, lw=1.8, label=label or None)
    _draw_shares(axes, float(sigma.max()))
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
    plain_ticks(axes.yaxis, sigma.flatten().tolist())
    axes.set(xlim=(0, end), xlabel="direction", ylabel="singular value", title="Spectrum")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_noise(axes: np.ndarray, shown: Preview, *, near: bool) -> None:
    """An image alone, with null noise and with random noise of equal norm, each with what it does to the output."""
    titles = ["image", f"+ {'near-null' if near else 'null'} noise", "+ random noise, same norm"]
    for axis, picture, title, change in zip(axes, shown.pictures, titles, shown.changes, strict=True):
        axis.imshow(_displayable(picture.clamp(0, 1)))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(
            f"{shown.outputs} change {change:.2g}" if change is not None and axis is not axes[0] else " ", fontsize=10
        )
        axis.set(xticks=[], yticks=[])


def _draw_patches(axes: Axes, patches: Float[Tensor, "k c rh rw"]) -> None:
    """Patches side by side, as one image: an axes for each would take a second to lay out."""
    axes.set_axis_off()
    scale = -(-TILE // max(patches.shape[-2:]))
    tiles = np.ones((FILTERS, patches.shape[-2] * scale, patches.shape[-1] * scale + GAP, 3))
    for tile, patch in zip(tiles, patches, strict=False):
        shown = _displayable(0.5 + 0.5 * patch / patch.abs().max())
        tile[:, :-GAP] = shown.repeat(scale, 0).repeat(scale, 1)
    axes.imshow(np.concatenate(list(tiles), axis=1)[:, :-GAP])


def _displayable(image: Float[Tensor, "c h w"]) -> np.ndarray:
    """[h, w, 3] for colour; the mean over channels, as grey, for any other number of channels."""
    image = image if image.shape[0] == 3 else image.mean(0, keepdim=True).expand(3, *image.shape[1:])
    return image.permute(1, 2, 0).numpy()
