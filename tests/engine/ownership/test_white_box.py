"""What is derived, what is not, and what cannot be said, of a suspect whose weights are at hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.linalg import subspace_angles
from timm.layers import resample_patch_embed
from torch import Tensor

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap
from nullspace_cli.engine.ownership.claim import Claim
from nullspace_cli.engine.ownership.white_box import compare
from tests.engine.ownership.conftest import small_vit, with_kernel


def kernel_of(model: Model) -> Tensor:
    return model.module.get_parameter("patch_embed.proj.weight").detach().clone()


def mixed(kernel: Tensor, *, orthogonal: bool) -> Tensor:
    M = torch.randn(48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    M = torch.linalg.qr(M).Q if orthogonal else M
    return (M @ kernel.double().flatten(1)).view(kernel.shape)


def eight_bits(kernel: Tensor) -> Tensor:
    step = kernel.abs().amax((1, 2, 3), keepdim=True) / 127
    return (kernel / step).round() * step


def pruned(kernel: Tensor, share: float) -> Tensor:
    return kernel * (kernel.abs() > kernel.abs().flatten().quantile(share))


def noisy(kernel: Tensor, share: float) -> Tensor:
    noise = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    return kernel + share * kernel.square().mean().sqrt() * noise


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda kernel: kernel,
    "permuted": lambda kernel: kernel.flip(0),
    "scaled": lambda kernel: kernel * torch.linspace(0.1, 10, 48)[:, None, None, None],
    "rotated": lambda kernel: mixed(kernel, orthogonal=True),
    "mixed": lambda kernel: mixed(kernel, orthogonal=False),
}


@pytest.mark.parametrize("attack", EXACT.values(), ids=EXACT)
def test_what_leaves_the_row_space_leaves_the_answer(
    owner: Model, claim: Claim, attack: Callable[[Tensor], Tensor]
) -> None:
    found = compare(claim, with_kernel(owner, attack(kernel_of(owner))))
    assert found.finding(0.01).verdict == "derived"
    assert found.p == 1 / 10_000
    assert found.reading
    assert found.reading.null < 1e-9 * found.reading.mirrored  # in float32, in which weights are kept
    assert found.angles
    assert found.angles.largest < 0.01
    assert found.angles.overlap > 1 - 1e-9


ATTACKS: dict[str, Callable[[Tensor], Tensor]] = {
    "fp16": lambda kernel: kernel.half().float(),
    "int8": eight_bits,
    "20% pruned": lambda kernel: pruned(kernel, 0.2),
    "80% pruned": lambda kernel: pruned(kernel, 0.8),
    "30% noise": lambda kernel: noisy(kernel, 0.3),
    "patches of 20": lambda kernel: resample_patch_embed(kernel, [20, 20]),
    "patches of 12": lambda kernel: resample_patch_embed(kernel, [12, 12]),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_that_change_the_row_space(owner: Model, claim: Claim, attack: Callable[[Tensor], Tensor]) -> None:
    assert compare(claim, with_kernel(owner, attack(kernel_of(owner)))).finding(0.01).verdict == "derived"


def test_another_std_that_the_weights_make_up_for(owner: Model, claim: Claim) -> None:
    own, other = (torch.tensor(std)[:, None, None] for std in (owner.transform.std, (0.5, 0.3, 0.7)))
    suspect = with_kernel(owner, kernel_of(owner) / own * other)
    moved = replace(suspect, transform=replace(suspect.transform, std=(0.5, 0.3, 0.7)))
    found = compare(claim, moved)
    assert found.reading
    assert found.reading.null < 1e-9 * found.reading.mirrored
    assert compare(claim, suspect).reading.ratio > 1e-3  # type: ignore[union-attr, operator]  # as it would be read


@pytest.mark.parametrize("patch", [16, 12, 20])
def test_networks_without_kinship(claim: Claim, patch: int) -> None:
    found = compare(claim, small_vit(2, patch))
    assert found.finding(0.01).verdict == "not shown"
    assert abs(found.likeness or 1) < 0.1


def test_the_mirror_image_of_a_network_is_another(owner: Model, claim: Claim) -> None:
    found = compare(claim, with_kernel(owner, kernel_of(owner).flip(3)))
    assert found.finding(0.01).verdict == "not shown"
    assert found.p == 1.0
    assert found.likeness == pytest.approx(-1)


def test_angles_are_scipys(claim: Claim) -> None:
    other = small_vit(2)
    found = compare(claim, other).angles
    std = torch.tensor(other.transform.std)[:, None, None]
    mine, theirs = (kernel_of(model).double() / std for model in (other, small_vit(1)))
    angles = torch.tensor(subspace_angles(mine.flatten(1).numpy().T, theirs.flatten(1).numpy().T)).rad2deg()
    assert found
    assert (found.smallest, found.largest) == pytest.approx((float(angles.min()), float(angles.max())))
    assert found.overlap == pytest.approx(float(angles.deg2rad().cos().square().mean()))


def test_angles_without_what_references_share(claim: Claim) -> None:
    """The rows of a reference taken out by hand; of the claim's own network nothing is left but itself."""
    other, reference = small_vit(2), small_vit(3)
    found = compare(claim, other, references=[reference]).angles_beyond
    kernels = [
        kernel_of(model).double() / torch.tensor(model.transform.std)[:, None, None] for model in (other, reference)
    ]
    rows, taken = (scipy.linalg.orth(kernel.flatten(1).numpy().T) for kernel in kernels)
    owners = claim.row_space.flatten(1).numpy().T
    outside = [np.linalg.svd(space - taken @ (taken.T @ space), full_matrices=False) for space in (rows, owners)]
    mine, theirs = (u[:, s**2 > 0.5] for u, s, _ in outside)
    angles = np.rad2deg(subspace_angles(mine, theirs))
    assert found
    assert (found.smallest, found.median, found.largest) == pytest.approx(
        (angles.min(), np.median(angles), angles.max())
    )
    own = compare(claim, small_vit(1), references=[reference, small_vit(4)]).angles_beyond
    assert own
    assert own.overlap == pytest.approx(1)
    assert compare(claim, small_vit(1), references=[small_vit(1)]).angles_beyond is None
    assert compare(claim, other).angles_beyond is None


def test_references_of_other_kinds(claim: Claim) -> None:
    """Smaller patches have fewer frequencies, a CNN has no patches at all."""
    cnn = load_model(ModelRequest("demo-cnn", device="cpu"))
    assert compare(claim, small_vit(2), references=[cnn]).angles_beyond is None
    assert compare(claim, small_vit(2), references=[cnn, small_vit(3, 12), small_vit(4, 20)]).angles_beyond


def test_the_most_one_sided_noise_of_known_networks(claim: Claim) -> None:
    """A malicious claim to nobody's network: what known networks read less than its mirror image, others do not."""
    known = [small_vit(seed) for seed in (2, 3, 4)]
    read = torch.cat([patch_map_of(model).matrix("pixel") for model in known])  # type: ignore[union-attr]
    power = read.mT @ read
    turned = power.view(3, 16, 16, 3, 16, 16).flip(2, 5).view_as(power)
    values, vectors = torch.linalg.eigh(power - turned)
    kernel = vectors[:, values > 1e-9].mT.unflatten(1, (3, 16, 16))
    std = torch.tensor(small_vit(1).transform.std)[:, None, None]
    made = replace(claim, patch_map=PatchMap.from_weight(kernel * std, claim.patch_map.std))
    assert compare(made, small_vit(5)).finding(0.01).verdict == "not shown"
    assert compare(made, known[0]).finding(0.01).verdict == "derived"  # to which a judge gives it as a reference


def test_of_what_nothing_can_be_said(owner: Model, claim: Claim) -> None:
    flat = compare(claim, with_kernel(owner, kernel_of(owner).mean((2, 3), keepdim=True).expand(48, 3, 16, 16)))
    assert flat.finding(0.01).verdict == "says nothing"
    small = compare(claim, with_kernel(owner, resample_patch_embed(kernel_of(owner), [2, 2])))
    assert "patches of 2 x 2 the claim's nullspace tells nothing" in small.finding(0.01).reason
    cnn = compare(claim, load_model(ModelRequest("demo-cnn", device="cpu")))
    assert cnn.finding(0.01).verdict == "says nothing"
    assert "disjoint patches" in cnn.finding(0.01).reason
    grey = load_model(
        ModelRequest(
            "deit_tiny_patch16_224", pretrained=False, kwargs={"depth": 1, "img_size": 64, "in_chans": 1}, device="cpu"
        )
    )
    assert "reads 1 channels" in compare(claim, grey).finding(0.01).reason
