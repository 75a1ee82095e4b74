"""Models of one channel read pictures in grey, as timm's loader gives them in mode L; here one that is not square."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform
from torch import Tensor, nn

from tests.conftest import Vitnull, contents

MODEL = (
    *("--model-kwargs", "depth=1", "--model-kwargs", "img_size=[48, 64]", "--model-kwargs", "in_chans=1"),
    *("--no-pretrained", "--device", "cpu", "--json"),
)
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
"""timm's data sets leave their files to the garbage collector."""

NAME = "deit_tiny_patch16_224"
ANY_MARK = ("--min-legibility", "0")
SOURCES = ("L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16")


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(NAME, depth=1, img_size=(48, 64), in_chans=1).eval()


@pytest.fixture
def loaded(plain: nn.Module) -> Callable[[Path], dict[str, Tensor]]:
    """timm's own data set of a folder, for the model's configuration in grey."""
    own: Any = plain.pretrained_cfg
    mean, std = ((sum(own[key]) / 3,) for key in ("mean", "std"))
    transform = create_transform(
        (1, 48, 64), mean=mean, std=std, interpolation=own["interpolation"], crop_pct=own["crop_pct"]
    )

    def inputs(folder: Path) -> dict[str, Tensor]:
        found = create_dataset("", root=folder.absolute().parent, transform=transform, input_img_mode="L")
        names = [Path(found.filename(i)) for i in range(len(found))]
        return {name.name: found[i][0][None] for i, name in enumerate(names) if name.parent.name == folder.name}

    return inputs


@pytest.fixture
def sources(photo: Path, tmp_path: Path) -> Path:
    """A folder of one class whose pictures are of all modes."""
    folder = tmp_path / "data"
    folder.mkdir()
    image = Image.open(photo)
    for mode in SOURCES:
        made = image if mode != "I;16" else Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 2)
        made = made if mode in ("RGB", "I;16") else made.convert(mode)
        if mode.endswith("A"):
            made.putalpha(Image.linear_gradient("L").resize(made.size).point(lambda level: min(255, 2 * level)))
        made.save(folder / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}")
    return folder


def answers(plain: nn.Module, inputs: dict[str, Tensor]) -> dict[str, tuple[int, float]]:
    with torch.no_grad():
        tops = {name: plain(x)[0].double().softmax(0).max(0) for name, x in inputs.items()}
    return {name: (int(top.indices), float(top.values)) for name, top in tops.items()}


def test_learn_noise_and_eval_see_what_timms_loader_gives(
    vitnull: Vitnull, plain: nn.Module, loaded: Any, sources: Path
) -> None:
    settings = ("--fraction", "1", "--rounds", "1", "--level", "input", "-o", "a.safetensors")
    vitnull("learn-noise", NAME, *MODEL, "--data", sources, *settings)
    found = vitnull("eval", NAME, *MODEL, "--data", sources, "--noise", "a.safetensors", "--per-image", "a.jsonl")
    assert found.document["images"] == len(SOURCES)
    expected = answers(plain, loaded(sources))
    for record in map(json.loads, Path("a.jsonl").read_text(encoding="utf-8").splitlines()):
        index, probability = expected[Path(record["image"]).name]
        assert record["before"]["class"] == index
        assert record["before"]["probability"] == pytest.approx(probability, abs=1e-6)


def test_explain(vitnull: Vitnull, plain: nn.Module, loaded: Any, sources: Path) -> None:
    outcome = vitnull("explain", sources, *MODEL, "--model", NAME, "--method", "all", "--size", "native")
    expected = answers(plain, loaded(sources))
    for record in outcome.document["images"]:
        index, probability = expected[Path(record["source"]).name]
        assert record["prediction"]["class"] == index
        assert record["prediction"]["probability"] == pytest.approx(probability, abs=1e-6)
        for method in record["methods"].values():
            assert Image.open(method["overlay"]).size == Image.open(record["source"]).size


def test_a_watermark_keeps_the_grey_input_and_the_colours(
    vitnull: Vitnull, loaded: Any, sources: Path, logo: Path
) -> None:
    outcome = vitnull("watermark", sources, logo, *MODEL, "--model", NAME, *ANY_MARK, "--out-dir", "marked")
    before, after = loaded(sources), loaded(Path("marked"))
    for record in outcome.document["images"]:
        source, output = Path(record["source"]), Path(record["output"])
        assert record["input_pixels_changed"] == 0
        assert record["mark_correlation"] > 0.5 or source.stem == "I16"  # which is nearly black
        assert torch.equal(before[source.name], after[output.name])
        if source.stem in ("L", "LA", "RGB", "RGBA"):  # in colour, the three channels have moved alike
            old, new = (np.asarray(Image.open(path)).astype(int) for path in (source, output))
            assert Image.open(output).mode == source.stem
            assert (old != new).any()
            colours = 1 if source.stem.startswith("L") else 3
            if colours == 3:
                change = (new - old)[..., :3]
                assert (change == change[..., :1]).all()
    assert len(outcome.document["images"]) == len(SOURCES)


@pytest.mark.parametrize("options", ["--size model", "--size model --norm 1", "--nullspace patch"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_watermark_keeps_the_grey_embeddings(
    vitnull: Vitnull, plain: nn.Module, loaded: Any, sources: Path, logo: Path, mode: str, options: str
) -> None:
    vitnull(
        "watermark",
        sources / f"{mode}.png",
        logo,
        *MODEL,
        "--model",
        NAME,
        *ANY_MARK,
        *options.split(),
        "--out-dir",
        "out",
    )
    source, result = loaded(sources)[f"{mode}.png"], loaded(Path("out"))[f"{mode}.watermarked.png"]
    kernel = plain.get_parameter("patch_embed.proj.weight")
    with torch.no_grad():
        old, new = (torch.nn.functional.conv2d(x, kernel, stride=16) for x in (source, result))
    assert not torch.equal(source, result)
    assert float((new - old).norm() / old.norm()) < 0.01


@pytest.mark.parametrize("options", ["", "--size native", "--unbounded"])
def test_fool(vitnull: Vitnull, plain: nn.Module, loaded: Any, sources: Path, logo: Path, options: str) -> None:
    settings = (*MODEL, "--model", NAME, "--out-dir", "out", "--explain", "gradient", *options.split())
    found = vitnull("fool", sources / "RGB.png", logo, *settings).document
    assert found["match"] is True
    index, probability = answers(plain, loaded(sources))["RGB.png"]
    assert found["prediction"]["source"]["class"] == index
    assert found["prediction"]["source"]["probability"] == pytest.approx(probability, abs=1e-4)
    if options == "--size native":
        assert found["input_pixels_changed"] == 0


def test_none_of_the_channels_is_red(vitnull: Vitnull, photo: Path, logo: Path) -> None:
    options = ("--model", NAME, "--unbounded", "--channels", "red")
    assert "no channel is red. Use --channels all" in vitnull("fool", photo, logo, *MODEL, *options, expect=2).message


def test_colours_that_are_saturated_everywhere(vitnull: Vitnull, logo: Path) -> None:
    Image.new("RGB", (200, 200), (255, 0, 0)).save("red.png")
    message = vitnull("watermark", "red.png", logo, *MODEL, "--model", NAME, expect=1).message
    assert "red.png is saturated everywhere" in message
    assert contents() == ["red.png"]


@pytest.mark.parametrize(
    "command",
    [
        "watermark {data} {logo}",
        "explain {data}",
        "fool {data}/L.png {logo}",
        "watermark {data}/L.png {logo} --size model",
    ],
)
def test_other_numbers_of_channels_read_no_pictures(vitnull: Vitnull, sources: Path, logo: Path, command: str) -> None:
    asked = command.format(data=sources, logo=logo).split()
    options = ("--model", "vit_tiny_patch16_224", "--no-pretrained", "--model-kwargs", "depth=1")
    message = vitnull(*asked, *options, "--model-kwargs", "in_chans=4", expect=1).message
    assert message.count("The model reads 4 channels; pictures have 3, or 1 in grey.") == 1
