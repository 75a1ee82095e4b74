"""What is derived, what is not, and what cannot be said, of a suspect whose weights are at hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.linalg import subspace_angles
from timm.layers import resample_patch_embed
from torch import Tensor

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
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
