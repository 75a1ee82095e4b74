"""What is wanted of a watermark, and what came of it: figures against their definitions, on small made-up results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nullspace_cli.engine.documents.artefacts import read_tensors
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files.hashes import sha256_of
from nullspace_cli.engine.files.pictures import Picture, read_picture
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.basis import patch_map_of
from nullspace_cli.engine.nullspace.decomposition import split_space
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace, sample_null
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.watermark import result as results
from nullspace_cli.engine.watermark.design import Design
from nullspace_cli.engine.watermark.lettering import text_mark
from nullspace_cli.engine.watermark.mark_style import DEFAULT_STRENGTH, target_image
from nullspace_cli.engine.watermark.marks import Placement
from nullspace_cli.engine.watermark.result import Unrounded, Watermarked, attained, fidelity, noise_picture, save_float
from nullspace_cli.engine.watermark.verification import Verification, compare_inputs, verify

TRANSFORM = EvalTransform((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)


class Tiny(nn.Module):
    """A patch embedding and a head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = classes
        self.embed = nn.Conv2d(3, 6, 8, 8)
        self.head = nn.Linear(6, classes) if classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.embed(images).square().mean((2, 3)))
        return answer


def tiny(classes: int = 4) -> Model:
    module = Tiny(classes).eval().requires_grad_(False)
    return Model(module, "tiny", "random", "0" * 64, TRANSFORM, torch.device("cpu"), "none", 8, 0, ("a", "b"))


def random_pixels(seed: int, height: int = 40, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pictured(folder: Path, name: str, pixels: NDArray[np.uint8]) -> Picture:
    Image.fromarray(pixels).save(folder / name)
    return read_picture(folder / name)


def result_of(source: NDArray[np.uint8], wanted: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> Watermarked:
    def unrounded() -> Unrounded:
        return Unrounded(*(torch.from_numpy(part).movedim(2, 0) / 255 for part in (pixels, source, wanted)))

    def drawn() -> NDArray[np.float32]:
        return np.ones(source.shape[:2], np.float32)

    return Watermarked(source, wanted, pixels, "resize", "aware", {"norm": 2}, unrounded, drawn)


# --- figures


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_likeness_and_attained_by_definition(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "CHUNK", chunk)
    source, wanted, pixels = (random_pixels(seed) for seed in range(3))
    pixels = (pixels // 2 + wanted // 2).astype(np.uint8)
    result = result_of(source, wanted, pixels)
    change, wish = pixels.astype(float) - source, wanted.astype(float) - source
    figures = fidelity(result)
    assert figures["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(change**2)))
    assert figures["mark_correlation"] == pytest.approx(np.corrcoef(change.ravel(), wish.ravel())[0, 1])
    assert attained(result) == pytest.approx(np.sum(change * wish) / np.sum(wish**2))


def test_nothing_made_and_nothing_wanted() -> None:
    source, other = random_pixels(0), random_pixels(1)
    assert fidelity(result_of(source, other, source)) == {"psnr": None, "mark_correlation": None}
    assert attained(result_of(source, other, source)) == 0
    assert attained(result_of(source, source, other)) == 1
    assert attained(result_of(source, other, other)) == pytest.approx(1)
    assert fidelity(result_of(source, other, other))["mark_correlation"] == pytest.approx(1)
    assert fidelity(result_of(source, source, other))["mark_correlation"] is None


def test_noise_picture() -> None:
    source = np.full((3, 4, 3), 100, np.uint8)
    pixels = source.copy()
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = 90, 120, 110
    noise = noise_picture(result_of(source, source, pixels))
    assert noise.dtype == np.uint8
    assert [int(noise[i, i, 0]) for i in range(3)] == [64, 255, 192]  # 128 + 127 (-10, 20, 10) / 20, half to even
    assert (noise[0, 1:] == 128).all()
    assert (noise_picture(result_of(source, source, source)) == 128).all()


# --- verification


def test_verify_by_plain_torch(tmp_path: Path) -> None:
    model = tiny()
    pixels = random_pixels(0)
    other = np.clip(pixels.astype(int) + np.random.default_rng(1).integers(-9, 10, pixels.shape), 0, 255)
    pair = pixels, other.astype(np.uint8)
    source, result = (pictured(tmp_path, f"{i}.png", part) for i, part in enumerate(pair))
    verdict = verify(model, patch_map_of(model), source, result)
    x, y = (TRANSFORM(part)[None] for part in pair)
    features = [model.module.get_submodule("embed")(part).square().mean((2, 3))[0] for part in (x, y)]
    logits = model.module(torch.cat([x, y])).double()
    probability = logits.softmax(1)
    top = int(logits[0].argmax())
    assert verdict.before == {
        "class": top,
        "label": model.label(top),
        "probability": pytest.approx(probability[0, top]),
    }
    assert verdict.after is not None
    assert verdict.after["class"] == int(logits[1].argmax())
    assert verdict.match is (logits[0].argmax() == logits[1].argmax()).item()
    assert verdict.confidence_change == pytest.approx(abs(float(probability[1, top] - probability[0, top])), abs=1e-6)
    assert verdict.logit_mse == pytest.approx(float((logits[0] - logits[1]).square().sum()), rel=1e-3)
    assert verdict.feature_change == pytest.approx(
        float((features[1] - features[0]).norm() / features[0].norm()), rel=1e-3
    )
    cosine = torch.cosine_similarity(features[0], features[1], 0)
    assert verdict.feature_cosine == pytest.approx(float(cosine), abs=1e-6)
    kernel = model.module.get_parameter("embed.weight").double()
    old, new = (nn.functional.conv2d(part.double(), kernel, stride=8) for part in (x, y))
    assert verdict.embedding_error == pytest.approx(float((new - old).norm() / old.norm()))
    seen = [TRANSFORM.input_pixels(part) for part in pair]
    assert verdict.input_pixels_changed == pytest.approx((seen[0] != seen[1]).mean())
    compared = compare_inputs(TRANSFORM, source, result)
    assert compared.input_pixels_changed == compared.input_pixels_changed_shown == verdict.input_pixels_changed


def test_verify_without_head_or_patches(tmp_path: Path) -> None:
    source, result = (pictured(tmp_path, f"{i}.png", random_pixels(i)) for i in range(2))
    verdict = verify(tiny(classes=0), None, source, result)
    assert (verdict.before, verdict.after, verdict.match, verdict.logit_mse) == (None, None, None, None)
    assert verdict.embedding_error is None
    assert verdict.feature_change is not None
    assert verdict.feature_change > 0
    assert not verdict.holds(verdict.feature_change / 2)
    assert verdict.holds(verdict.feature_change * 2)


@pytest.mark.parametrize("classes", [0, 4])
def test_equal_files_are_identical_to_the_model(classes: int, tmp_path: Path) -> None:
    """What `as_identical` claims without a model is what a model says; of what is inside it says nothing."""
    source = pictured(tmp_path, "photo.png", random_pixels(0))
    model = tiny(classes)
    verdict = verify(model, patch_map_of(model), source, source)
    assert verdict.feature_cosine == pytest.approx(1)
    assert (verdict.embedding_error, verdict.feature_change) == (0, 0)
    outside = replace(verdict, before=None, after=None, embedding_error=None, feature_cosine=None, feature_change=None)
    assert outside == compare_inputs(TRANSFORM, source, source).as_identical(has_head=classes > 0)


@pytest.mark.parametrize(
    ("verdict", "holds"),
    [
        (Verification(input_pixels_changed=0.0), True),
        (Verification(input_pixels_changed=0.0, input_pixels_changed_shown=0.5, reading="timm"), True),
        (Verification(input_pixels_changed=0.0, input_pixels_changed_shown=0.5, reading="shown"), None),
        (Verification(input_pixels_changed=0.5, input_pixels_changed_shown=0.0, reading="shown"), True),
        (Verification(), None),
        (Verification(input_pixels_changed=0.5), None),
        (Verification(match=True, input_pixels_changed=0.5), None),
        (Verification(match=False, input_pixels_changed=0.5), False),
        (Verification(match=False), False),
        (Verification(match=True, embedding_error=0.01, feature_change=0.5), True),
        (Verification(match=True, embedding_error=0.011), False),
        (Verification(match=False, embedding_error=0.0), False),
        (Verification(match=True, feature_change=0.011), False),
        (Verification(feature_change=0.01), True),
        (Verification(match=None, embedding_error=0.0, feature_change=0.0), True),
    ],
)
def test_holds(verdict: Verification, holds: bool | None) -> None:
    assert verdict.holds(0.01) is holds


def test_a_change_within_the_nullspace_is_not_an_error(tmp_path: Path) -> None:
    """The class and the tokens stay while every input pixel changes."""
    model = tiny()
    patch_map = patch_map_of(model)
    assert patch_map is not None
    noise = 0.1 * sample_null(patch_map.nullspace().basis, (32, 32), torch.Generator().manual_seed(0))
    middle = torch.full((3, 32, 32), 0.5, dtype=torch.float64) + 0.2 * torch.rand(3, 1, 1, dtype=torch.float64)
    pair = [(part.clamp(0, 1) * 255).round().byte().movedim(0, 2).numpy() for part in (middle, middle + noise)]
    source, result = (pictured(tmp_path, f"{i}.png", part) for i, part in enumerate(pair))
    verdict = verify(model, patch_map, source, result)
    assert verdict.match
    assert (verdict.input_pixels_changed or 0) > 0.9
    assert (verdict.embedding_error or 1) < 0.02


# --- the design, the row space, the file


def test_design_takes_what_suits_the_place() -> None:
    mark, image = text_mark("copy"), torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    placement = Placement(fit="stretch", scale=0.5)
    for style in ("outline", "hatch"):
        expected = target_image(image, mark, replace(placement, strength=DEFAULT_STRENGTH[style]), style, (4.0, 4.0))
        assert torch.equal(Design(mark, placement).target(image, style, (4.0, 4.0)), expected)
    own = Design(mark, placement, "plain", 1.5)
    expected = target_image(image, mark, replace(placement, strength=1.5), "plain", (4.0, 4.0))
    assert torch.equal(own.target(image, "hatch", (4.0, 4.0)), expected)
    about = own.describe()
    assert (about["treatment"], about["strength"], about["fit"], about["scale"]) == ("plain", 1.5, "stretch", 0.5)


def patch_space(**changes: Any) -> PatchSpace:
    weight = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch_map = PatchMap(weight, changes.get("std", (0.2, 0.3, 0.5)), 1e-7)
    rows, _, _ = split_space(patch_map.matrix("pixel"), 1e-7)
    return PatchSpace(patch_map, rows)


def test_of_grey_is_the_same_map_on_grey_images() -> None:
    space = patch_space()
    grey = space.of_grey()
    image = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alike = grey.patch_map.patchify(image) @ grey.patch_map.matrix("pixel").mT
    colour = space.patch_map.patchify(image.expand(3, -1, -1)) @ space.patch_map.matrix("pixel").mT
    torch.testing.assert_close(alike, colour)
    torch.testing.assert_close(grey.row_space @ grey.row_space.mT, torch.eye(10, dtype=torch.float64))
    null = torch.randn(5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    null -= null @ grey.row_space.mT @ grey.row_space
    assert (null @ grey.patch_map.matrix("pixel").mT).abs().max() < 1e-12
    assert grey.patch_map.in_chans == 1


def test_of_grey_may_lose_rank() -> None:
    """Kernels that read differences of colours only see nothing of grey."""
    weight = patch_space().patch_map.weight.clone()
    weight[:4] -= weight[:4].mean(1, keepdim=True)
    patch_map = PatchMap(weight, (0.5, 0.5, 0.5), 1e-7)
    space = PatchSpace(patch_map, split_space(patch_map.matrix("pixel"), 1e-7)[0])
    assert len(space.row_space) == 10
    assert len(space.of_grey().row_space) == 6


def test_row_space_of_other_patches_is_refused() -> None:
    space = patch_space()
    with pytest.raises(ArtifactError, match="patches with 5 numbers, the model's patches have 48"):
        PatchSpace(space.patch_map, space.row_space[:, :5])


def test_save_float(tmp_path: Path) -> None:
    source, wanted, pixels = (random_pixels(seed) for seed in range(3))
    result, design = result_of(source, wanted, pixels), Design(text_mark("copy"), Placement(), "hatch", 0.5)
    photo = pictured(tmp_path, "photo.png", source).path
    basis = tmp_path / "a.basis.safetensors"
    basis.write_bytes(b"rows")
    about: dict[str, Any] = {"model": "tiny", "weights_sha256": None, "seed": 3}
    path = save_float(tmp_path / "exact.safetensors", result, design, photo, basis, **about)
    tensors, provenance = read_tensors(path, "watermark", ("image", "source", "target"))
    for name, part in (("image", pixels), ("source", source), ("target", wanted)):
        torch.testing.assert_close(tensors[name] * 255, torch.from_numpy(part).movedim(2, 0).float())
    assert (provenance.space, provenance.model, provenance.weights_sha256, provenance.seed) == (
        "pixel",
        "tiny",
        None,
        3,
    )
    hashes = {"source": sha256_of(photo), "basis": sha256_of(basis), "mark": design.mark.sha256}
    assert provenance.parents == hashes
    chosen = {key: provenance.parameters[key] for key in ("norm", "nullspace", "treatment", "strength", "fit")}
    assert chosen == {"norm": 2, "nullspace": "resize", "treatment": "hatch", "strength": 0.5, "fit": "contain"}
