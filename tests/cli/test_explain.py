"""`vitnull explain`: what its files hold, measured again with plain timm; what it counts; and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import CLASSES, draw
from tests.cli.contract import AREAS, EXPLAIN, EXPLAINED, LIKENESS, check_keys
from tests.cli.reference import Reference, pixels_of
from tests.conftest import Outcome, Vitnull, contents

TOKENS = ("attribution", "raw", "rollout", "attention-gradcam", "token-gradcam", "partial-lrp", "full-lrp")
PIXELS = ("gradient", "input-x-gradient", "integrated-gradients", "smoothgrad")


@pytest.fixture
def explain(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> Vitnull:
    """`vitnull explain IMAGE... --model <the tiny ViT> --json`, by its gradient if nothing else is said."""

    def explain(*arguments: str | Path, **options: Any) -> Outcome:
        method = () if "--method" in arguments else ("--method", "gradient")
        return vitnull("explain", *arguments, *method, "--model", *tiny_vit, "--json", **options)

    return explain


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    """Drawings of the demo's in folders by class, the third one in the wrong folder."""
    for index, name in enumerate((CLASSES[0], CLASSES[1], CLASSES[5])):
        folder = tmp_path / "drawings" / name
        folder.mkdir(parents=True)
        Image.fromarray(draw("val", index)[0]).save(folder / f"{index}.png")
    return tmp_path / "drawings"


def maps(path: str = "photo.saliency.safetensors") -> dict[str, torch.Tensor]:
    return load_file(path)


# Files


def test_maps_of_all_methods(explain: Vitnull, tiny: Reference, photo: Path) -> None:
    document = explain(photo, "--method", "all").document
    check_keys(document, EXPLAIN)
    (record,) = document["images"]
    for about in record["methods"].values():
        check_keys(about, EXPLAINED)
    assert tuple(record["methods"]) == (*TOKENS, *PIXELS)
    assert record["methods"]["raw"]["grid"] == [4, 4]
    assert record["methods"]["gradient"]["grid"] == [64, 64]
    written = {about["overlay"] for about in record["methods"].values()} | {record["sheet"], record["float"]}
    assert written == {f"photo.{name}.png" for name in (*TOKENS, *PIXELS, "saliency")} | {"photo.saliency.safetensors"}
    assert set(contents()) == written
    assert all(pixels_of(f"photo.{name}.png").shape == (64, 64, 3) for name in (*TOKENS, *PIXELS))
    index, probability = tiny.answer(photo)
    assert record["prediction"]["class"] == record["explained"]["class"] == index
    assert record["prediction"]["probability"] == pytest.approx(probability, rel=1e-4)

    x = tiny.input(photo).requires_grad_()
    tiny.module(x)[0, index].backward()
    assert x.grad is not None
    torch.testing.assert_close(maps()["gradient"].float(), x.grad[0].abs().amax(0), rtol=1e-3, atol=1e-9)
    assert {name: list(values.shape) for name, values in maps().items()} == {
        name: about["grid"] for name, about in record["methods"].items()
    }
    assert record["methods"]["full-lrp"]["range"] == [float(f(maps()["full-lrp"])) for f in (torch.min, torch.max)]


def test_one_method_needs_no_sheet(explain: Vitnull, photo: Path) -> None:
    (record,) = explain(photo, "--method", "rollout").document["images"]
    assert record["sheet"] is None
    assert contents() == ["photo.rollout.png", "photo.saliency.safetensors"]


def test_the_overlay_is_brighter_where_the_map_is(explain: Vitnull, photo: Path) -> None:
    explain(photo, "--method", "gradient")
    values, shown = maps()["gradient"].numpy(), pixels_of("photo.gradient.png").astype(float)
    colour = shown.max(2) - shown.min(2)  # the image beneath is grey
    assert colour[values > np.quantile(values, 0.9)].mean() > 2 * colour[values < np.quantile(values, 0.5)].mean()


def test_the_maps_alone_and_the_pictures_alone(explain: Vitnull, photo: Path) -> None:
    (record,) = explain(photo, "--no-pictures", "--method", "raw,rollout").document["images"]
    assert contents() == ["photo.saliency.safetensors"]
    assert [about["overlay"] for about in record["methods"].values()] == [None, None]
    assert explain(photo, "--no-float", "--out-dir", "new").document["images"][0]["float"] is None
    assert contents("new") == ["photo.gradient.png"]


def test_native_size_shows_the_crop_where_it_lies(explain: Vitnull, tiny: Reference, photo: Path) -> None:
    """The transform takes the middle of a picture that is wider than high: its left and right edges stay cold."""
    explain(photo, "--size", "native", "--method", "input-x-gradient")
    shown = pixels_of("photo.input-x-gradient.png").astype(float)
    assert shown.shape == (230, 260, 3)
    colour = shown.max(2) - shown.min(2)
    resized = round(64 / tiny.config["crop_pct"])
    margin = int((260 - 64 * 230 / resized) / 2) - 5
    assert margin > 10
    assert colour[:, :margin].max() == 0 < 30 < colour[margin:-margin].max()  # no heat at all, not the least


def test_the_same_bytes_on_two_runs(explain: Vitnull, photo: Path) -> None:
    for folder in ("a", "b"):
        explain(photo, "--method", "attribution,smoothgrad", "--out-dir", folder)
    assert len(contents("a")) == 4
    for name in contents("a"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


# Classes


def test_the_class_by_index_and_by_name(vitnull: Vitnull, photo: Path) -> None:
    for name, folder in (("4", "index"), ("STAR", "name")):
        arguments = ("--class", name, "--model", "demo", "--method", "raw,attribution", "--out-dir", folder, "--json")
        (record,) = vitnull("explain", photo, *arguments).document["images"]
        assert record["explained"] == {"class": 4, "label": "star"}
        assert record["prediction"]["class"] == 3
    vitnull("explain", photo, "--model", "demo", "--method", "raw,attribution")
    by_name, own = maps("name/photo.saliency.safetensors"), maps()
    assert torch.equal(maps("index/photo.saliency.safetensors")["attribution"], by_name["attribution"])
    assert torch.equal(own["raw"], by_name["raw"])
    assert not torch.equal(own["attribution"], by_name["attribution"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sta", "10 classes; name one by its index, counted from 0, or by its name. Did you mean star?"),
        ("10", "no class '10'. It has 10 classes"),
    ],
)
def test_a_class_that_is_not_there(vitnull: Vitnull, photo: Path, name: str, message: str) -> None:
    assert message in vitnull("explain", photo, "--model", "demo", "--class", name, expect=2).message
    assert contents() == []


def test_a_model_without_a_head(explain: Vitnull, photo: Path) -> None:
    headless = ("--model-kwargs", "num_classes=0")
    (record,) = explain(photo, "--method", "attribution", *headless).document["images"]
    assert (record["prediction"], record["explained"]) == (None, None)
    assert "no head, and so no class '3'" in explain(photo, "--class", "3", *headless, "--force", expect=2).message
    outcome = explain(photo, "--faithfulness", *headless, "--force", expect=1)
    assert "has no classes whose prediction could change" in outcome.message


# Several images


def test_a_folder_keeps_its_order_and_results_are_no_images_of_it(explain: Vitnull, photo: Path) -> None:
    Path("in/b").mkdir(parents=True)
    for name in ("in/a.png", "in/b/c.png"):
        shutil.copy(photo, name)
    for again in (False, True):
        outcome = explain("in", "--method", "raw,gradient", "--out-dir", "in", "--force")
        assert [record["source"] for record in outcome.document["images"]] == ["in/a.png", "in/b/c.png"]
        assert ("left out as results of an earlier run: in/a.gradient.png and 5 more" in outcome.stderr) == again
    assert contents("in/b") == ["c.gradient.png", "c.png", "c.raw.png", "c.saliency.png", "c.saliency.safetensors"]


def test_results_of_others_are_images(explain: Vitnull, photo: Path) -> None:
    """What watermark wrote, and photos that happen to be called as results are."""
    Path("in").mkdir()
    names = ["in/a.watermarked.png", "in/b.gradient.png", "in/c.raw.png", "in/d.saliency.png"]
    for name in names:
        shutil.copy(photo, name)
    outcome = explain("in", "--method", "gradient", "--no-float")
    assert [record["source"] for record in outcome.document["images"]] == names
    assert outcome.stderr == ""


@pytest.mark.parametrize("content", [b"no image", b"", None], ids=["a text", "empty", "cut"])
def test_one_that_fails_does_not_stop_the_others(explain: Vitnull, photo: Path, content: bytes | None) -> None:
    cut = photo.read_bytes()
    Path("bad.png").write_bytes(cut[: len(cut) // 2] + cut[-12:] if content is None else content)
    outcome = explain("bad.png", photo, "--out-dir", "out", expect=4)
    check_keys(outcome.document, EXPLAIN)
    assert [record["source"] for record in outcome.document["images"]] == [str(photo)]
    (failure,) = outcome.document["failures"]
    assert (failure["source"], outcome.document["summary"]["failed"]) == ("bad.png", 1)
    assert failure["error"] in outcome.message
    assert contents("out") == ["photo.gradient.png", "photo.saliency.safetensors"]
    assert "bad.png" in explain("bad.png", "--out-dir", "out", expect=1).message


def test_jsonl(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path) -> None:
    shutil.copy(photo, "a.png")
    arguments = ("--method", "gradient", "--faithfulness", "--model", *tiny_vit, "--jsonl", "--no-pictures")
    lines = vitnull("explain", "a.png", photo, *arguments).lines("explain", "explain-measured")
    assert [line.get("source") for line in lines] == ["a.png", str(photo), None]
    assert lines[2]["summary"]["count"] == 2
    check_keys(lines[2]["faithfulness"]["gradient"], AREAS)


# Measures


def test_faithfulness_of_a_labelled_folder(vitnull: Vitnull, drawings: Path, demo: Reference) -> None:
    arguments = ("--model", "demo", "--method", "rollout,raw,gradient", "--no-pictures", "--no-float", "--faithfulness")
    document = vitnull("explain", drawings, *arguments, "--plot", "curves.png", "--json").document
    check_keys(document, EXPLAIN)
    assert list(document["faithfulness"]) == ["rollout", "raw", "gradient"]
    for found in document["faithfulness"].values():
        check_keys(found, AREAS)
        check_keys(found["random"], AREAS)
        for name, curve in found["curves"].items():
            assert curve[0] == pytest.approx(2 / 3 if "label" in name else 1)  # one label is wrong
            assert found[name] == pytest.approx(np.trapezoid(curve, np.arange(10) / 10))
    rollout, raw, gradient = document["faithfulness"].values()
    assert rollout["random"] == raw["random"] != gradient["random"]  # on the same grid, and on another
    assert contents() == ["curves.png", "drawings"]

    shutil.copy(drawings / CLASSES[0] / "0.png", "0.png")
    arguments = (*arguments[:3], "raw", *arguments[4:])
    unlabelled = vitnull("explain", "0.png", *arguments, "--json").document["faithfulness"]
    assert unlabelled["raw"]["positive_label"] is None


def test_likeness_under_noise(vitnull: Vitnull, drawings: Path) -> None:
    arguments = ("--model", "demo", "--method", "rollout,gradient,input-x-gradient", "--no-pictures", "--no-float")
    document = vitnull("explain", drawings, *arguments, "--compare-noise", "0.3", "--json").document
    check_keys(document, EXPLAIN)
    noise = document["noise"]
    assert noise["rms"] == 0.3
    assert noise["match_percent"]["null"] == 100
    for kinds in noise["methods"].values():
        assert list(kinds) == ["null", "random", "row_space"]
        for likeness in kinds.values():
            check_keys(likeness, LIKENESS)
            assert likeness["undefined"] == 0
    same = noise["methods"]["rollout"]["null"]
    assert (same["spearman"], same["ssim"], same["top10"]) == pytest.approx((1, 1, 1), abs=1e-9)
    assert noise["methods"]["gradient"]["null"]["pearson"] == pytest.approx(1, abs=1e-4)
    assert noise["methods"]["input-x-gradient"]["null"]["pearson"] < 0.99  # it multiplies by the pixels themselves
    for kind in ("random", "row_space"):
        assert noise["methods"]["rollout"][kind]["spearman"] < 0.99


def test_noise_needs_a_null_space(vitnull: Vitnull, photo: Path) -> None:
    arguments = ("--model", "demo-cnn", "--method", "gradcam", "--compare-noise", "0.1")
    assert "no exact nullspace: its first layers" in vitnull("explain", photo, *arguments, expect=5).message
    assert contents() == []


def test_the_human_result(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path) -> None:
    shutil.copy(photo, "a.png")
    measures = ("--method", "raw,gradient", "--faithfulness", "--compare-noise", "0.1")
    words = vitnull("explain", "a.png", photo, *measures, "--model", *tiny_vit).stdout.split()
    assert {"a.png", "a.saliency.png", "positive", "negative", "random", "spearman", "row"} <= set(words)
    (one,) = [vitnull("explain", photo, "--method", "raw", "--model", *tiny_vit, "--out-dir", "one").stdout]
    rows = dict(line.split(maxsplit=1) for line in one.splitlines())
    assert (rows["raw"], rows["maps"]) == ("one/photo.raw.png", "one/photo.saliency.safetensors")


def test_the_method_suits_the_model(vitnull: Vitnull, photo: Path) -> None:
    for model, method in (("demo", "attribution"), ("demo-cnn", "gradcam")):
        document = vitnull("explain", photo, "--model", model, "--no-float", "--json").document
        assert list(document["images"][0]["methods"]) == [method]
    assert "photo.gradcam.png exists already" in vitnull("explain", photo, "--model", "demo-cnn", expect=1).message


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["demo", "demo-cnn"])
def test_on_a_gpu(vitnull: Vitnull, photo: Path, model: str) -> None:
    maps = {}
    for device in ("cpu", "cuda"):
        arguments = ("--model", model, "--method", "all", "--no-pictures", "--out-dir", device, "--device", device)
        vitnull("explain", photo, *arguments)
        maps[device] = load_file(Path(device) / "photo.saliency.safetensors")
    for name, expected in maps["cpu"].items():
        torch.testing.assert_close(maps["cuda"][name], expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


# Refusals


@pytest.mark.parametrize("model", ["demo", "demo-cnn"])
def test_a_method_that_the_model_lacks(vitnull: Vitnull, photo: Path, model: str) -> None:
    wrong, right = ("gradcam", "attribution") if model == "demo" else ("rollout", "gradcam")
    message = vitnull("explain", photo, "--model", model, "--method", f"gradient,{wrong}", expect=1).message
    assert f"{wrong} cannot explain {model}. What can: " in message
    assert right in message.partition("What can: ")[2]
    assert contents() == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--method grad-cam", "Unknown saliency method 'grad-cam'. Methods: attribution"),
        ("--plot curves.png", "--plot"),
        ("--faithfulness --plot curves.gif", "--plot"),
        ("--compare-noise 0", "--compare-noise"),
        ("--compare-noise nan", "--compare-noise"),
        ("--compare-noise inf", "--compare-noise"),
        ("--jsonl", "--json or --jsonl"),
    ],
)
def test_what_makes_no_sense(explain: Vitnull, no_model: None, photo: Path, line: str, named: str) -> None:
    assert named in explain(photo, *line.split(), expect=2).message
    assert contents() == []


def test_no_image(explain: Vitnull, no_model: None) -> None:
    assert "no image was named" in explain(expect=2).message


@pytest.mark.parametrize("name", ["photo.raw.png", "photo.saliency.png", "photo.saliency.safetensors", "curves.png"])
def test_existing_files_are_kept(explain: Vitnull, no_model: None, photo: Path, name: str) -> None:
    Path(name).write_text("precious")
    arguments = ("--method", "all", "--faithfulness", "--plot", "curves.png")
    assert f"{name} exists already" in explain(photo, *arguments, expect=1).message
    assert Path(name).read_text() == "precious"
    assert contents() == [name]


def test_results_replace_neither_each_other_nor_an_image(explain: Vitnull, no_model: None, photo: Path) -> None:
    shutil.copy(photo, "photo.png")
    outcome = explain("photo.png", photo, "--force", expect=2)
    assert "several results would be written to photo.png.gradient.png" in outcome.message
    shutil.copy(photo, "photo.gradient.png")
    outcome = explain("photo.png", "photo.gradient.png", "--force", expect=2)
    assert "would replace its own input photo.gradient.png" in outcome.message


def test_names_of_classes(vitnull: Vitnull, photo: Path) -> None:
    names = [f"name {i}" for i in range(10)]
    Path("names.txt").write_text("\n".join(names))
    run = ("explain", photo, "--model", "demo", "--class-names", "names.txt")
    (record,) = vitnull(*run, "--class", "name 7", "--json").document["images"]
    assert record["explained"] == {"class": 7, "label": "name 7"}
    assert record["prediction"]["label"] == names[record["prediction"]["class"]]
    Path("names.txt").write_text("\n".join(names[:9]))
    assert "names.txt names 9 classes; the model has 10" in vitnull(*run, "--force", expect=1).message
    assert "There is no file no.txt" in vitnull(*run[:-1], "no.txt", "--force", expect=1).message
