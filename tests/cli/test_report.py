"""`--report`: the pictures on a page are those of the files and of timm's own transform, its figures the document's."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from tests.cli.reference import Reference, pixels_of
from tests.conftest import Vitnull, contents
from tests.made import write_noise
from tests.reports import read_page

NASTY = "<script>alert('x')<|script>.png"


def seen_by_timm(path: Path | str, reference: Reference) -> np.ndarray:
    """What a model reads of a file, in 8 bits, by timm's transform."""
    transform = create_transform(**reference.config, normalize=False)
    with Image.open(path) as image:
        return np.asarray(transform(image.convert("RGB"))).transpose(1, 2, 0)


@pytest.fixture
def mark(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Any:
    """`vitnull watermark IMAGE... --report report.html`, of the tiny ViT."""

    def mark(*arguments: str | Path, report: str = "report.html", expect: int = 0) -> Any:
        more = ("--model", *tiny_vit, "--report", report)
        return vitnull("watermark", *arguments, logo, *more, expect=expect)

    return mark


def test_watermark(mark: Any, tiny: Reference, photo: Path) -> None:
    shutil.copy(photo, NASTY)
    outcome = mark(NASTY)
    assert "report.html" in outcome.stderr
    page = read_page("report.html")
    assert page.elsewhere == []
    assert page.tags.count("script") == 1
    source, result = pixels_of(photo), pixels_of(NASTY.replace(".png", ".watermarked.png"))
    assert np.array_equal(page.pictures["Picture: source"], source)
    assert np.array_equal(page.pictures["Picture: result"], result)
    for name, path in (("source", photo), ("result", NASTY.replace(".png", ".watermarked.png"))):
        assert np.array_equal(page.pictures[f"Model input: of the {name}"], seen_by_timm(path, tiny))
    noise = page.pictures["Noise: noise"].astype(int) - 128
    change = result.astype(int) - source
    factor = 127 / np.abs(change).max()
    assert np.abs(noise - factor * change).max() <= 0.51
    assert f"Drawn {factor:.3g} times as strong" in page.text
    assert "bit-identical" in page.text


def test_same_bytes_again(mark: Any, photo: Path) -> None:
    mark(photo)
    first = Path("report.html").read_bytes()
    mark(photo, "--force")
    assert Path("report.html").read_bytes() == first


def test_failures_are_listed_with_their_reason(mark: Any, photo: Path) -> None:
    shutil.copy(photo, "good.png")
    Path("broken.png").write_bytes(photo.read_bytes()[:300])
    mark("good.png", "broken.png", "none.png", expect=4)
    page = read_page("report.html")
    assert "broken.png: the image is damaged or truncated" in page.text
    assert "none.png" in page.text
    assert len(page.pictures) == 5


def test_a_page_where_nothing_was_done(mark: Any, photo: Path) -> None:
    mark("none.png", "nor-this.png", expect=4)
    page = read_page("report.html")
    assert "No image was marked" in page.text
    assert page.pictures == {}


def test_a_page_beside_lines(mark: Any, photo: Path) -> None:
    (record,) = mark(photo, "--jsonl").lines("watermark")
    assert record["output"] in read_page("report.html").text


def test_each_shard_has_its_own(mark: Any, photo: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(photo, name)
    message = mark("a.png", "b.png", "--shard", "1/2", expect=2).message
    assert "report.{shard}.html" in message
    for shard in ("1/2", "2/2"):
        mark("a.png", "b.png", "c.png", "--shard", shard, report="{shard}.html")
    assert read_page("1-of-2.html").names == ["a.png", "c.png"]
    assert len(read_page("2-of-2.html").pictures) == 5
    assert "2/2" in read_page("2-of-2.html").text


def test_the_worst_pictures_have_the_room(mark: Any, tmp_path: Path) -> None:
    """Of noise that no PNG makes smaller, a megabyte holds one image's pictures, not two's."""
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (250, 250, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{i}.png")
    mark("0.png", "1.png", "2.png", "--report-size", "1")
    page = read_page("report.html")
    assert len(page.names) == page.thumbnails == 3
    assert page.tags.count("article") == 1
    assert "the pictures of 2 images. A larger --report-size has more of them" in page.text
    assert not [name for name in contents() if name.startswith((".", "tmp"))]


@pytest.mark.parametrize(
    ("report", "expect", "words"),
    [
        ("there.html", 1, "there.html exists already"),
        ("report.pdf", 2, "a report is a .html"),
        ("missing/report.html", 1, "the folder missing does not exist"),
    ],
)
def test_refused_before_anything_slow(
    mark: Any, photo: Path, no_model: None, report: str, expect: int, words: str
) -> None:
    Path("there.html").touch()
    assert words in mark(photo, report=report, expect=expect).message
    assert contents() == ["there.html"]


def test_explain(vitnull: Vitnull, tiny_vit: tuple[str, ...], tiny: Reference, photo: Path) -> None:
    methods = ("--method", "gradient,raw", "--faithfulness", "--compare-noise", "0.1")
    document = vitnull("explain", photo, *methods, "--model", *tiny_vit, "--report", "r.html", "--json").document
    page = read_page("r.html")
    for name in ("gradient", "raw"):
        assert np.array_equal(page.pictures[f"{name}: model input"], seen_by_timm(photo, tiny))
        assert np.array_equal(page.pictures[f"{name}: {name}"], pixels_of(f"photo.{name}.png"))
        assert f"{document['faithfulness'][name]['positive']:.3f}" in page.text
        assert f"{document['noise']['methods'][name]['random']['spearman']:.3f}" in page.text
    assert "svg" in page.tags
    assert page.elsewhere == []


def test_fool(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path) -> None:
    Image.fromarray(draw("val", 5, size=260)[0]).save("target.png")
    more = ("--explain", "gradient", "--report", "r.html", "--json")
    document = vitnull("fool", photo, "target.png", "--model", *tiny_vit, *more).document
    page = read_page("r.html")
    result = pixels_of(document["artifacts"]["image"])
    assert np.array_equal(page.pictures["Against the target: result"], result)
    assert np.array_equal(page.pictures["Against the source: result"], result)
    assert {"gradient: source", "gradient: result", "Noise: noise"} <= page.pictures.keys()
    assert f"{document['likeness']['ssim_target']:.3f}" in page.text


def test_check(vitnull: Vitnull, photo: Path, demo: Reference) -> None:
    result = pixels_of(photo).copy()
    result[90:120, 90:120] ^= 64
    Image.fromarray(result).save("result.png")
    more = ("--model", "demo", "--reader", "64/bilinear/1", "--report", "r.html", "--json")
    document = vitnull("check", photo, "result.png", *more, expect=3).document
    page = read_page("r.html")
    assert np.array_equal(page.pictures["Picture: source"], pixels_of(photo))
    assert np.array_equal(page.pictures["Picture: result"], result)
    model = next(name for name in page.pictures if name.startswith("demo: of the result"))
    assert np.array_equal(page.pictures[model], seen_by_timm("result.png", demo))
    assert "1 of 1 pair of files does not hold what was asked" in page.text
    (record,) = document["images"]
    for reader in record["readers"]:
        assert f"{reader['rms']:.3g}" in page.text
    assert page.elsewhere == []


def test_check_of_pictures_of_two_sizes(vitnull: Vitnull, photo: Path) -> None:
    with Image.open(photo) as image:
        image.resize((200, 150)).save("result.png")
    vitnull("check", photo, "result.png", "--report", "r.html", "--jsonl")
    page = read_page("r.html")
    assert "another size" in page.text
    assert len(page.pictures) == 3 * 3  # two inputs of three readers, and the difference of each
    vitnull("check", photo, "result.png", "--report", "result.png", expect=2)
    assert "exists already" in vitnull("check", photo, "result.png", "--report", "r.html", expect=1).message


def test_eval(vitnull: Vitnull, tmp_path: Path) -> None:
    model = load_model(ModelRequest("demo", device="cpu"))
    delta = 0.5 * torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    write_noise(tmp_path / "n.safetensors", model, "input", delta)
    write_noise(tmp_path / "e.safetensors", model, "encoder", torch.randn(1, 49, 192))
    noises = ("--noise", "n.safetensors", "--noise", "e.safetensors", "--per-image", "lines.jsonl")
    document = vitnull(
        "eval", "demo", "--data", "demo", "--count", "4", *noises, "--report", "r.html", "--json"
    ).document
    page = read_page("r.html")
    for result in document["results"]:
        low, high = result["match_ci95"]
        assert f"{result['match_percent']:.1f}% ({low:.1f} to {high:.1f})" in page.text
    assert page.tags.count("article") == 5  # four images, and the noise that is seen in them
    assert len(set(page.names)) == 4
    number = int(page.names[-1].rpartition("/")[2])
    drawn = draw("val", number)[0]
    assert np.array_equal(page.pictures["Model input: without noise"], drawn)
    std = np.array(model.transform.std)
    noisy = (drawn / 255 + delta[0].permute(1, 2, 0).numpy() * std).clip(0, 1) * 255
    assert np.abs(page.pictures["Model input: with it"] - noisy).max() < 0.51
    assert page.elsewhere == []


def test_eval_of_earlier_runs_has_no_page(vitnull: Vitnull) -> None:
    Path("results.json").write_text("{}")
    vitnull("eval", "--results", "results.json", "--plot", "p.png", "--report", "r.html", expect=2)


@pytest.mark.slow
def test_processes_share_a_page(
    torchrun: Any, photo: Path, logo: Path, tiny_vit: tuple[str, ...], tmp_path: Path
) -> None:
    os.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(photo, name)
    more = ("--model", *tiny_vit, "--report", "report.html")
    assert torchrun("watermark", "a.png", "b.png", "c.png", logo, *more).returncode == 0
    page = read_page("report.html")
    assert page.names == ["a.png", "b.png", "c.png"]
    assert page.tags.count("article") == 3
