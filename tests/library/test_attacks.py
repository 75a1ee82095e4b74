"""Images that are one thing to people and another to the network: what the plain network says of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from nullspace_cli import Model, VitnullError, attack
from nullspace_cli.demo.drawing import draw
from tests.library.conftest import network_input

Pixels = NDArray[np.uint8]
MeanStd = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def target() -> Pixels:
    pixels: Pixels = draw("val", 4, size=110)[0][:96].copy()
    return pixels


def small(pixels: Pixels) -> NDArray[np.float64]:
    """What the network's transform makes of a picture before its crop."""
    return np.asarray(Image.fromarray(pixels).resize((40, 35), Image.Resampling.BICUBIC)) / 255


def correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def middle(pixels: Pixels) -> Tensor:
    """The network's input in [0, 1]: the middle of it."""
    return torch.from_numpy(small(pixels)[2:34, 4:36].copy()).movedim(-1, 0)


def fine(pixels: Pixels) -> NDArray[np.float64]:
    """The detail that a resize to a third takes away."""
    levels = pixels.astype(float)
    return levels - gaussian_filter(levels, (2, 2, 0))


def answers(plain: nn.Module, *views: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [plain(view)[0].double() for view in views]


def test_an_image_that_is_a_file(
    model: Model, plain: nn.Module, picture: Pixels, target: Pixels, mean_std: MeanStd, tmp_path: Path
) -> None:
    made = attack(model, picture, target)
    assert made.pixels.shape == (35, 40, 3)
    source = torch.from_numpy(small(picture)).movedim(-1, 0)
    result = torch.from_numpy(made.pixels / 255).movedim(-1, 0)
    mean, std = mean_std
    before, after = answers(plain, *(((image[:, 2:34, 4:36].float() - mean) / std)[None] for image in (source, result)))
    assert int(before.argmax()) == int(after.argmax())
    assert float((before - after).norm()) < 0.02 * float(before.norm())
    assert made.verified is True
    assert made.to_dict()["prediction"]["transformed"]["class"] == int(after.argmax())
    result_like, source_like = (correlation(image, small(target)) for image in (made.pixels / 255, small(picture)))
    assert result_like > source_like + 0.1
    with Image.open(made.save(tmp_path / "a.png")) as image:
        assert np.array_equal(np.asarray(image), made.pixels)
    with pytest.raises(VitnullError, match=r"a\.png"):
        made.save(tmp_path / "a.png")
    assert repr(made) == "<AttackResult 40 x 35, verified True>"


@pytest.mark.parametrize("p", [1, 2])
def test_an_image_of_unbounded_floats(
    p: Any, model: Model, plain: nn.Module, picture: Pixels, target: Pixels, mean_std: MeanStd
) -> None:
    made = attack(model, picture, target, bounded=False, p=p, strength=1)
    assert made.image.shape == (3, 32, 32)
    mean, std = mean_std
    views = [((image.float() - mean) / std)[None] for image in (middle(picture), made.image)]
    before, after = answers(plain, *views)
    assert float((before - after).abs().max()) < 1e-3
    assert made.verified is True
    preview = (255 * made.image.clamp(0, 1)).round().movedim(0, -1).numpy()
    assert np.abs(made.pixels - preview).max() <= 1


def test_unbounded_in_the_2_norm_is_a_projection(
    model: Model, plain: nn.Module, picture: Pixels, target: Pixels
) -> None:
    """z = t + A^+ A (x - t), patch by patch, by numpy's pseudo-inverse."""
    embed: Any = plain.get_submodule("patch_embed.proj")
    A = (embed.weight.detach().double() / torch.tensor([0.229, 0.224, 0.225])[:, None, None]).flatten(1).numpy()
    seen = attack(model, picture, target, bounded=False, strength=1).image.numpy()
    x, t = (middle(image)[:, :16, :16].numpy().ravel() for image in (picture, target))
    expected = t + np.linalg.pinv(A) @ (A @ (x - t))
    assert np.abs(seen[:, :16, :16].ravel() - expected).max() < 0.02  # the pictures are rounded to 8 bits here


def test_red_alone_takes_the_rest_from_the_target(model: Model, picture: Pixels, target: Pixels) -> None:
    with pytest.raises(VitnullError, match="red"):  # 192 numbers are read of 256 red ones, and more are not there
        attack(model, picture, target, channels="red")


def test_at_native_size_not_a_bit_of_the_input_changes(model: Model, picture: Pixels, target: Pixels) -> None:
    made = attack(model, picture, target, size="native")
    assert made.pixels.shape == picture.shape
    before, after = (network_input(pixels) for pixels in (picture, made.pixels))
    assert torch.equal(before, after)
    assert correlation(fine(made.pixels), fine(target)) > correlation(fine(picture), fine(target)) + 0.2
    assert made.verified is True


def test_pictures_may_be_files_or_at_hand(model: Model, picture: Pixels, target: Pixels, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    by_file = attack(model, tmp_path / "a.png", Image.fromarray(target), bounded=False, strength=1)
    assert torch.equal(by_file.image, attack(model, picture, target, bounded=False, strength=1).image)


# What is refused

ask: Any = attack  # without its types, which forbid what is asked here
IMAGE = np.zeros((40, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda m: ask(m.module, IMAGE, IMAGE), "model is VisionTransformer; expected a Model"),
        (lambda m: ask(m, None, IMAGE), "source is NoneType; expected a path, a PIL image, or an array of uint8"),
        (lambda m: ask(m, IMAGE, IMAGE / 255), r"target is ndarray of float64 \[40, 40, 3\]"),
        (lambda m: ask(m, torch.zeros(3, 40, 40), IMAGE), "source is Tensor of torch.float32"),
        (lambda m: ask(m, IMAGE, IMAGE[:, :0]), "Cannot read the target: it is 0 x 40"),
        (lambda m: ask(m, "nowhere.png", IMAGE), "Cannot read nowhere.png"),
        (lambda m: ask(m, IMAGE, IMAGE, size="big"), "size is 'big'; expected one of 'model', 'native'"),
        (lambda m: ask(m, IMAGE, IMAGE, p=3), "p is 3; expected one of 1, 2"),
        (lambda m: ask(m, IMAGE, IMAGE, channels="blue"), "channels is 'blue'; expected one of 'red', 'all'"),
        (lambda m: ask(m, IMAGE, IMAGE, strength=-1), "strength is -1; expected a number of at least 0"),
        (lambda m: ask(m, IMAGE, IMAGE, strength=float("nan")), "strength is nan"),
        (lambda m: ask(m, IMAGE, IMAGE, size="native", bounded=False), "At native size the result is an 8-bit file"),
        (lambda m: ask(m, IMAGE, IMAGE, size="native", p=1), "p = 1 is solved at the model's size"),
        (lambda m: ask(m, IMAGE[:1, :1], IMAGE, size="native"), "the source has 1 x 1 pixels"),
    ],
)
def test_what_is_refused(refused: Callable[[Any], Any], message: str, model: Model) -> None:
    with pytest.raises(VitnullError, match=message):
        refused(model)
