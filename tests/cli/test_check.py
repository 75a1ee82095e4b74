"""`vitnull check`, held against timm's and torchvision's transforms, Pillow, and models built without this package."""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.workflows.check import DEFAULT_READERS
from tests.cli.contract import CHECK, check_keys
from tests.cli.reference import Reference
from tests.conftest import Vitnull

Array = NDArray[Any]

PILLOW, TENSORS = "64/bicubic/0.875", "40x56/torch-bilinear-aliased/squash"
FAST = ("--jpeg", "none", "--reader", PILLOW)


def pixels_of(path: Path | str) -> Array:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def saved(pixels: Array, name: str, **settings: Any) -> Path:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(name, **settings)
    return Path(name)


def by_timm(pixels: Array) -> Array:
    config = {
        "input_size": (3, 64, 64),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0,) * 3,
        "std": (1,) * 3,
    }
    return np.asarray(create_transform(**config, is_training=False)(Image.fromarray(pixels)) * 255).round()


def by_torchvision(pixels: Array) -> Array:
    resize = transforms.Resize((40, 56), InterpolationMode.BILINEAR, antialias=False)
    return np.asarray(resize(torch.from_numpy(pixels.copy()).movedim(-1, 0)))


def figures(before: Array, after: Array) -> list[float]:
    change = np.abs(before.astype(float) - after)
    return [(change > 0).mean(), np.sqrt((change**2).mean()), change.max()]


def of(entry: dict[str, Any]) -> list[float]:
    return [entry["input_pixels_changed"], entry["rms"], entry["max"]]


@pytest.fixture
def pair(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A photo, and the same with a dark square; in the empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    pixels = pixels_of(photo)
    marked = pixels.copy()
    marked[60:90, 100:150] //= 2
    return saved(pixels, "a.png"), saved(marked, "b.webp", lossless=True)


def test_every_readers_figures(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    outcome = vitnull("check", *pair, "--reader", PILLOW, "--reader", TENSORS, "--jpeg", "80", "--json", expect=3)
    check_keys(outcome.document, CHECK)
    (record,) = outcome.document["images"]
    before, after = map(pixels_of, pair)
    assert of(record["pixels"]) == pytest.approx(figures(before, after))
    assert [entry["rms"] for entry in record["readers"]] == sorted(entry["rms"] for entry in record["readers"])
    entries = {entry["reader"]: entry for entry in record["readers"]}
    assert entries.keys() == {PILLOW, TENSORS}
    for name, read in ((PILLOW, by_timm), (TENSORS, by_torchvision)):
        entry = entries[name]
        assert (entry["asked"], entry["verified"]) == (True, False)
        assert of(entry) == pytest.approx(figures(read(before), read(after)))
        assert entry["rms_shown"] == entry["rms"]
        (jpeg,) = entry["jpeg"]
        for side, pixels in (("source", before), ("result", after)):
            data = BytesIO()
            Image.fromarray(pixels).save(data, "JPEG", quality=80)
            assert of(jpeg[side]) == pytest.approx(figures(read(before), read(pixels_of(data))))  # type: ignore[arg-type]
    assert f"b.webp: the input of {PILLOW} differs" in outcome.message


def test_nothing_is_asked_by_itself(vitnull: Vitnull, pair: tuple[Path, Path], no_model: None) -> None:
    outcome = vitnull("check", *pair, "--json")
    (record,) = outcome.document["images"]
    assert sorted(entry["reader"] for entry in record["readers"]) == sorted(DEFAULT_READERS)
    assert [entry["rms"] for entry in record["readers"]] == sorted(entry["rms"] for entry in record["readers"])
    assert {entry["verified"] for entry in record["readers"]} == {None}
    assert (record["verified"], outcome.document["model"]) == (None, None)
    assert [saved["quality"] for saved in record["readers"][0]["jpeg"]] == [95, 75]


def test_a_models_answers(vitnull: Vitnull, pair: tuple[Path, Path], demo: Reference, demo_cnn: Reference) -> None:
    models = ("--model", "demo", "--model", "demo-cnn")
    outcome = vitnull("check", *pair, *FAST[:2], *models, "--keep", "answer", "--json")
    (record,) = outcome.document["images"]
    assert outcome.document["model"] is None
    assert [about["model"] for about in outcome.document["models"]] == ["demo", "demo-cnn"]
    for entry, reference in zip(record["models"], (demo, demo_cnn), strict=True):
        (old, old_p), (new, new_p) = map(reference.answer, pair)
        assert (entry["before"]["class"], entry["after"]["class"]) == (old, new)
        assert entry["match"] == entry["verified"] == (old == new)
        assert (entry["before"]["probability"], entry["after"]["probability"]) == pytest.approx(
            (old_p, new_p), abs=1e-5
        )
        change = (reference.logits(pair[0]) - reference.logits(pair[1])).square().sum()
        assert entry["logit_mse"] == pytest.approx(float(change), rel=1e-3)
    summary = {about["model"]: about for about in outcome.document["summary"]["models"]}
    assert summary["demo"]["matched"] == 1
    asked = [entry["reader"] for entry in record["readers"] if entry["asked"]]
    assert asked == []


def test_a_models_input_is_to_stay(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    message = vitnull("check", *pair, *FAST[:2], "--model", "demo", expect=3).message
    assert "the input of demo differs" in message
    outcome = vitnull("check", pair[0], pair[0], *FAST, env={"VITNULL_MODEL": "demo"})
    assert "input bit-identical" in outcome.stdout
    assert "same class" in outcome.stdout
    assert "all that was asked to stay has" in outcome.stdout


def test_another_class(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    saved(draw("val", 4, size=260)[0], "other.png")
    outcome = vitnull("check", pair[0], "other.png", *FAST[:2], "--model", "demo", "--keep", "answer", expect=3)
    assert "other.png: the answer of demo differs" in outcome.message
    assert "ANOTHER CLASS" in outcome.stdout


def test_a_watermark_of_our_own(vitnull: Vitnull, logo: Path, no_model: None) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(60, 190, (20, 24, 3), dtype=np.uint8)).resize((480, 400))
    saved(np.asarray(smooth), "photo.png")
    vitnull("watermark", "photo.png", logo, "--model", "demo", "--no-verify")
    outcome = vitnull("check", "photo.png", "photo.watermarked.png", "--reader", "demo", "--jpeg", "none", "--json")
    (record,) = outcome.document["images"]
    assert (record["verified"], record["readers"][0]["max"]) == (True, 0)
    assert not record["down_and_up"]["source"]["suspicious"]
    assert record["down_and_up"]["result"]["suspicious"]


def test_a_tolerance(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    pixels = pixels_of(pair[0]).clip(0, 254)
    saved(pixels, "c.png")
    saved(pixels + 1, "d.png")
    vitnull("check", "c.png", "d.png", *FAST, "--tolerance", "1.5", expect=3)
    vitnull("check", "c.png", "d.png", *FAST, "--tolerance", "2")  # Pillow has rounded twice


def test_other_sizes_are_said_and_read_each_by_its_own(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    saved(np.asarray(Image.open(pair[0]).resize((520, 460))), "large.png")
    outcome = vitnull("check", pair[0], "large.png", *FAST, "--json", expect=3)
    (record,) = outcome.document["images"]
    assert record["sizes"] == {"source": [260, 230], "result": [520, 460]}
    assert record["pixels"] is None
    assert of(record["readers"][0]) == pytest.approx(
        figures(by_timm(pixels_of(pair[0])), by_timm(pixels_of("large.png")))
    )
    assert "of another size" in vitnull("check", pair[0], "large.png", *FAST, expect=3).stdout


def test_both_readings(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    """A file that is stored on its side, and what a viewer shows of it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(pixels_of(pair[0]), "side.png", exif=exif)
    saved(np.rot90(pixels_of(pair[0]), -1), "upright.png")
    outcome = vitnull("check", "side.png", "upright.png", *FAST, "--json", expect=3)
    (record,) = outcome.document["images"]
    assert record["readers"][0]["input_pixels_changed"] > 0.5
    assert record["readers"][0]["input_pixels_changed_shown"] == 0
    assert record["pixels"] is None
    shown = vitnull("check", "side.png", "upright.png", *FAST, "--reading", "shown", "--json")
    assert shown.document["images"][0]["pixels"]["max"] == 0
    assert "upright: changed" in vitnull("check", "side.png", "upright.png", *FAST, expect=3).stdout


@pytest.fixture
def folders(pair: tuple[Path, Path]) -> None:
    """Sources and results, of which one is broken and some have no counterpart."""
    for place in ("in/a.jpg", "in/deep/b.png", "in/c.png", "in/alone.png", "in/twice.png", "in/twice.jpg"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        saved(pixels_of(pair[0]), place)
    for source, place in (
        *(
            ("in/a.jpg", "out/a.watermarked.png"),
            ("in/deep/b.png", "out/deep/b.webp"),
            ("in/twice.jpg", "out/twice.jpg"),
        ),
        *(("in/a.jpg", "out/a.png"), ("in/twice.png", "out/twice.png.watermarked.png")),
    ):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(place, lossless=True)  # of WebP
    Path("out/c.png").write_bytes(b"no picture")
    shutil.copy("in/a.jpg", "out/nobodys.jpg")


def test_folders_by_name(vitnull: Vitnull, folders: None) -> None:
    outcome = vitnull("check", "in", "out", *FAST, "--json", expect=4)
    document = outcome.document
    check_keys(document, CHECK)
    assert {(record["source"], record["result"]) for record in document["images"]} == {
        ("in/a.jpg", "out/a.watermarked.png"),
        ("in/deep/b.png", "out/deep/b.webp"),
        ("in/twice.jpg", "out/twice.jpg"),
        ("in/twice.png", "out/twice.png.watermarked.png"),
    }
    assert document["unmatched"] == {"source": ["in/alone.png"], "result": ["out/a.png", "out/nobodys.jpg"]}
    assert [failure["source"] for failure in document["failures"]] == ["in/c.png"]
    assert "out/c.png" in document["failures"][0]["error"]
    assert (document["summary"]["count"], document["summary"]["failed"], document["exit_code"]) == (4, 1, 4)
    assert "1 of SOURCE without a counterpart in RESULT: in/alone.png" in outcome.message
    human = vitnull("check", "in", "out", *FAST, expect=4).stdout
    assert "4 pairs compared, 1 failed, 3 without a counterpart" in human
    failure, *lines = vitnull("check", "in", "out", *FAST, "--jsonl", expect=4).lines("check", "failure")
    assert failure["source"] == "in/c.png"
    assert [line["result"] for line in lines] == [record["result"] for record in document["images"]]
    shards = [
        vitnull("check", "in", "out", *FAST, "--jsonl", "--shard", f"{i}/3", expect=c) for i, c in ((1, 0), (2, 4))
    ]
    assert [len(shard.lines("check", "failure")) for shard in shards] == [2, 2]


def test_folders_in_one_another(vitnull: Vitnull, pair: tuple[Path, Path]) -> None:
    saved(pixels_of(pair[0]), "in/a.png")
    for place in ("in/marked/a.watermarked.png", "in/a.watermarked.png"):
        saved(pixels_of(pair[0]), place)
    for result, found in (("in/marked", "in/marked/a.watermarked.png"), ("in", "in/a.watermarked.png")):
        (record,) = vitnull("check", "in", result, *FAST, "--json").document["images"]
        assert (record["source"], record["result"]) == ("in/a.png", found)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a.png", "RESULT"),
        ("a.png .", "give two files, or two folders"),
        ("a.png b.webp --reader 64/cubic/1", "there is no filter 'cubic'"),
        ("a.png b.webp --jpeg 0", "'0' is not none or a whole number from 1 to 100"),
        ("a.png b.webp --jpeg 90,", "--jpeg"),
        ("a.png b.webp --tolerance 256", "--tolerance"),
        ("a.png b.webp --checkpoint w.pth", "give one --model"),
        ("a.png b.webp --checkpoint w.pth --model demo --model demo-cnn", "give one --model"),
        ("a.png b.webp --json --jsonl", "--jsonl"),
    ],
)
def test_usage_errors(vitnull: Vitnull, pair: tuple[Path, Path], no_model: None, line: str, named: str) -> None:
    assert named in vitnull("check", *line.split(), expect=2).message


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a.png missing.png --model demo", "there is no such file"),
        ("missing.png a.png --model demo", "there is no such file"),
        ("a.png b.webp --reader vit_tiny_patch16_244", "A reader is SIZE/FILTER/CROP_PCT"),
    ],
)
def test_what_cannot_be_read(vitnull: Vitnull, pair: tuple[Path, Path], no_model: None, line: str, named: str) -> None:
    assert named in vitnull("check", *line.split(), expect=1).message
