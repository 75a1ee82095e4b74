"""Noise: its file, its controls, and what becomes of it on another model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.noise.injection_sites import Level, injection_site
from nullspace_cli.engine.noise.noise import Noise, exact_noise, read_noise
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.basis_file import save_basis
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from tests.made import contents_of, write_noise, write_unchecked

TINY = {"depth": 1, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def vit() -> Model:
    return load_model(
        ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs={**TINY, "img_size": 64}, device="cpu")
    )


@pytest.fixture(scope="module")
def cnn() -> Model:
    """Another network, with other statistics, one of them for each channel, and a larger input."""
    model = load_model(ModelRequest("demo-cnn", device="cpu"))
    transform = EvalTransform((3, 96, 80), (0.1, 0.5, 0.9), (0.2, 0.4, 0.8), "bilinear")
    return replace(model, transform=transform)


def draw(*shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def put(path: Path, model: Model, level: Level, delta: Float[Tensor, "1 *shape"]) -> Path:
    return write_noise(path, model, level, delta)


@pytest.fixture
def learned(vit: Model, tmp_path: Path) -> Noise:
    """Input-level noise of the ViT's."""
    return read_noise(put(tmp_path / "input.safetensors", vit, "input", draw(3, 64, 64)))


@pytest.mark.parametrize("level", ["encoder", "input"])
def test_round_trip(vit: Model, tmp_path: Path, level: Level) -> None:
    delta = draw(*injection_site(vit, level).shape)
    path = put(tmp_path / "noise.safetensors", vit, level, delta)
    noise = read_noise(path)
    assert torch.equal(noise.delta, delta)
    assert (noise.level, noise.limit, noise.sigma, noise.source) == (level, 0.5, None, path)
    assert (noise.model, noise.weights_sha256, noise.std) == (vit.name, vit.weights_sha256, vit.transform.std)
    assert noise.norm == pytest.approx(float(delta.norm()))
    assert torch.equal(noise.on(vit).delta, delta)


def test_controls_have_the_same_norm(learned: Noise) -> None:
    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    shuffled, uniform = learned.shuffled(seeded()), learned.uniform(seeded())
    assert torch.equal(shuffled.delta.flatten().sort().values, learned.delta.flatten().sort().values)
    assert not torch.equal(shuffled.delta, learned.delta)
    assert torch.equal(shuffled.delta, learned.shuffled(seeded()).delta)
    assert not torch.equal(shuffled.delta, learned.shuffled(torch.Generator().manual_seed(4)).delta)
    for control in (shuffled, uniform):
        assert control.norm == pytest.approx(learned.norm, rel=1e-6)
        assert (control.delta.shape, control.delta.dtype) == (learned.delta.shape, learned.delta.dtype)
    values = uniform.delta.flatten()
    largest = float(values.abs().max())
    assert float(values.square().mean()) == pytest.approx(largest**2 / 3, rel=0.05)  # the variance of U(-a, a)
    assert float(values.quantile(0.25)) == pytest.approx(-largest / 2, rel=0.05)


def test_another_models_noise_is_converted_by_std_alone(learned: Noise, cnn: Model) -> None:
    """At equal sizes: pixels are what two models share, and no noise stays no noise."""
    small = replace(cnn, transform=replace(cnn.transform, input_size=(3, 64, 64)))
    met = learned.on(small)
    pixels = learned.delta * 0.5  # the ViT's std
    for channel, std in enumerate(small.transform.std):
        torch.testing.assert_close(met.delta[0, channel], pixels[0, channel] / std)
    nothing = replace(learned, delta=torch.zeros_like(learned.delta)).on(small)
    assert not nothing.delta.any()


def test_another_input_size(learned: Noise, cnn: Model) -> None:
    """A constant stays what it is, and a ramp rises on."""
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    met = replace(learned, delta=ramp).on(cnn)
    assert met.delta.shape == (1, 3, 96, 80)
    rows = met.delta[0, 0, :, 5:-5] * 0.2 / 0.5
    torch.testing.assert_close(rows, rows[:1].expand_as(rows))
    torch.testing.assert_close(rows[0].diff(), torch.full((69,), 64 / 80), rtol=1e-4, atol=1e-4)


def test_a_strangers_tokens_are_refused(vit: Model, cnn: Model, tmp_path: Path) -> None:
    noise = read_noise(put(tmp_path / "noise.safetensors", vit, "encoder", draw(16, 48)))
    other = replace(vit, weights_sha256="another")
    with pytest.raises(ArtifactError, match=r"encoder-level noise of vit_tiny.*means nothing to"):
        noise.on(other)


def test_another_number_of_channels(learned: Noise, vit: Model) -> None:
    grey = load_model(ModelRequest("demo-cnn", pretrained=False, kwargs={"in_chans": 1}, device="cpu"))
    grey = replace(grey, transform=EvalTransform((1, 64, 64), (0.5,), (0.5,), "bilinear"))
    with pytest.raises(ArtifactError, match="noise on 3 channels; demo-cnn reads 1"):
        learned.on(grey)


def test_tokens_of_another_grid(vit: Model, tmp_path: Path) -> None:
    noise = read_noise(put(tmp_path / "noise.safetensors", vit, "encoder", draw(25, 48)))
    with pytest.raises(ArtifactError, match=r"noise of shape \[25, 48\].*takes \[16, 48\]"):
        noise.on(vit)


def test_files_that_hold_no_noise(vit: Model, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no file"):
        read_noise(tmp_path / "none")
    with pytest.raises(ArtifactError, match="is read from the disk alone: copy it here"):
        read_noise(Path("s3://bucket/noise.safetensors"))
    path = put(tmp_path / "noise.safetensors", vit, "encoder", draw(16, 48))
    tensors, about = contents_of(path)
    for shape in [(16, 48), (2, 16, 48), (1, 1, 16, 48)]:
        write_unchecked(path, {**tensors, "noise": torch.zeros(shape)}, about)
        with pytest.raises(ArtifactError, match=r"its tensor noise is F32 of shape .*; expected F32 of shape \[1, "):
            read_noise(path)
    del tensors["noise"]
    write_unchecked(path, tensors, about)
    with pytest.raises(ArtifactError, match="lacks the tensor noise"):
        read_noise(path)
    save_basis(path, vit, find_basis(vit), compact=True, force=True)
    with pytest.raises(ArtifactError, match="holds a basis; expected a noise"):
        read_noise(path)


def test_exact_noise_is_in_the_kernel_of_the_patch_embedding(vit: Model, tmp_path: Path) -> None:
    path = save_basis(tmp_path / "b.safetensors", vit, find_basis(vit), compact=True)
    noise = exact_noise(path, vit, 0.3, seed=1)
    assert (noise.level, noise.sigma, noise.limit, noise.weights_sha256) == ("input", 0.3, None, vit.weights_sha256)
    pixels = noise.delta.double() * 0.5  # the ViT's std
    assert float(pixels.square().mean().sqrt()) == pytest.approx(0.3)
    kernel = vit.module.get_parameter("patch_embed.proj.weight").detach().double()
    moved = torch.nn.functional.conv2d(noise.delta.double(), kernel, stride=16)
    by_chance = torch.nn.functional.conv2d(draw(3, 64, 64).double() * 0.6, kernel, stride=16)
    assert float(moved.norm() / by_chance.norm()) < 1e-6
    assert not torch.equal(noise.delta, exact_noise(path, vit, 0.3, seed=2).delta)
    torch.testing.assert_close(exact_noise(path, vit, 1.0, seed=1).scaled(0.3).delta, noise.delta)
    assert (noise.kind, noise.rtol) == ("exact", None)
    save_basis(path, vit, find_basis(vit, rtol=0.9), force=True)
    near = exact_noise(path, vit, 0.3, seed=1)
    assert (near.kind, near.rtol) == ("near", 0.9)
