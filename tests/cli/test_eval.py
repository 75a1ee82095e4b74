"""`vitnull eval`: its figures held against plain timm code, its files, and every way it can be refused."""

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from nullspace_cli.demo.drawing import CLASSES, draw
from tests.cli.contract import EVAL, check_keys
from tests.conftest import Outcome, Vitnull, contents
from tests.made import write_noise, write_unchecked

if TYPE_CHECKING:
    from nullspace_cli.engine.noise.injection_sites import Level
    from tests.cli.reference import Reference

SIDE = 240  # of the pictures; the demo models resize them to 224 and 64
COUNT = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of four classes of the demo's."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(30):
        pixels, label = draw("val", i, size=SIDE)
        if label < 4:
            path = folder / "val" / CLASSES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise on the demo's tokens and on its pixels, large enough to change some predictions, and its basis."""
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.models.model_request import ModelRequest
    from nullspace_cli.engine.noise.injection_sites import injection_site
    from nullspace_cli.engine.nullspace.basis import find_basis
    from nullspace_cli.engine.nullspace.basis_file import save_basis

    folder = tmp_path_factory.mktemp("noises")
    model = load_model(ModelRequest("demo", device="cpu"))

    def save(level: "Level", limit: float) -> Path:
        generator = torch.Generator().manual_seed(0)
        delta = limit * (2 * torch.rand(1, *injection_site(model, level).shape, generator=generator) - 1)
        return write_noise(folder / f"{level}.safetensors", model, level, delta, limit)

    return {
        "encoder": save("encoder", 6.0),
        "input": save("input", 4.0),
        "basis": save_basis(folder / "basis.safetensors", model, find_basis(model), compact=True),
    }


@pytest.fixture
def evaluate(vitnull: Vitnull, data: Path) -> Vitnull:
    """`vitnull eval --data ...` with further arguments."""

    def evaluate(*arguments: str | Path, **options: Any) -> Outcome:
        return vitnull("eval", *arguments, "--data", data, **options)

    return evaluate


def delta_of(path: Path) -> Tensor:
    from safetensors.torch import load_file

    return load_file(path)["noise"]


def figures(reference: "Reference", files: Sequence[Path], noisy: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """The definitions, image by image, with plain timm code."""
    module = reference.module
    found: list[dict[str, Any]] = []

    def answers(x: Tensor, run: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        features: Tensor = module.forward_head(run(x), pre_logits=True)  # type: ignore[operator]
        logits = module.get_classifier()(features)[0].double()  # type: ignore[operator]
        return logits, logits.softmax(0), features[0].double()

    with torch.inference_mode():
        for path in files:
            x = reference.input(path)
            f, p, h = answers(x, module.forward_features)  # type: ignore[arg-type]
            g, q, k = answers(x, noisy)
            found.append(
                {
                    "match_percent": 100.0 * (f.argmax() == g.argmax()),
                    "logit_mse": ((f - g) ** 2).sum(),
                    "probability_mse": ((p - q) ** 2).sum(),
                    "feature_mse": ((h - k) ** 2).sum(),
                    "feature_cosine": h @ k / (h @ h * (k @ k)).sqrt(),
                    "confidence_change": abs(p.max() - q[p.argmax()]),
                    "clean": 100.0 * (CLASSES[int(f.argmax())] == path.parent.name),
                    "noisy": 100.0 * (CLASSES[int(g.argmax())] == path.parent.name),
                }
            )
    return {name: float(sum(record[name] for record in found)) / len(found) for name in found[0]}


def assert_figures(result: dict[str, Any], expected: dict[str, float]) -> None:
    accuracy = result["accuracy"]
    assert (accuracy["clean"], accuracy["noisy"]) == pytest.approx((expected.pop("clean"), expected.pop("noisy")))
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-3, abs=1e-7), name


# Against timm


def test_figures_are_those_of_plain_timm_code(
    evaluate: Vitnull, data: Path, noises: dict[str, Path], demo: "Reference"
) -> None:
    document = evaluate("demo", "--noise", noises["encoder"], noises["input"], "--json").document
    check_keys(document, EVAL)
    files = sorted((data / "val").rglob("*.png"))
    assert (document["images"], len(files)) == (COUNT, COUNT)
    encoder, input_ = (result for result in document["results"] if result["control"] == "none")

    on_tokens, on_pixels = delta_of(noises["encoder"]), delta_of(noises["input"])
    module = demo.module

    def with_tokens(x: Tensor) -> Tensor:
        hook = module.get_submodule("patch_embed").register_forward_hook(lambda _, __, tokens: tokens + on_tokens)
        try:
            return module.forward_features(x)  # type: ignore[operator]
        finally:
            hook.remove()

    expected = figures(demo, files, with_tokens)
    assert 0 < expected["match_percent"] < 100
    assert document["accuracy"] == pytest.approx(expected["clean"])
    assert_figures(encoder, expected)
    expected = figures(demo, files, lambda x: module.forward_features(x + on_pixels))  # type: ignore[operator]
    assert 0 < expected["match_percent"] < 100
    assert_figures(input_, expected)

    for result, noise in ((encoder, on_tokens), (input_, on_pixels)):
        share, n = result["match_percent"] / 100, COUNT
        z = 1.959964
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert result["match_ci95"] == pytest.approx([100 * (centre - half), 100 * (centre + half)], abs=1e-4)
        assert result["logit_mse_per_class"] == pytest.approx(result["logit_mse"] / 10)
        assert result["noise_norm"] == pytest.approx(float(noise.norm()), rel=1e-5)
        assert (result["kind"], result["transfer"], result["sigma"]) == ("learned", False, None)
    assert (encoder["limit"], input_["limit"]) == (6.0, 4.0)


def test_noise_of_another_model(
    evaluate: Vitnull, data: Path, noises: dict[str, Path], demo: "Reference", demo_cnn: "Reference"
) -> None:
    document = evaluate("demo-cnn", "--noise", noises["input"], "--controls", "none", "--json").document
    (result,) = document["results"]
    assert (result["noise_model"], result["transfer"], result["level"]) == ("demo", True, "input")
    stds = [torch.tensor(reference.config["std"])[:, None, None] for reference in (demo, demo_cnn)]
    size = demo_cnn.size
    pixels = delta_of(noises["input"]) * stds[0]
    if size != demo.size:
        pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    files = sorted((data / "val").rglob("*.png"))
    forward = demo_cnn.module.forward_features
    assert_figures(result, figures(demo_cnn, files, lambda x: forward(x + pixels / stds[1])))  # type: ignore[operator]


def test_noise_that_was_learned_on_images_read_another_way_is_told(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    arguments = ("demo", "--noise", noises["encoder"], "--noise", noises["basis"], "--controls", "none", "--count", "2")
    assert evaluate(*arguments).stderr == ""
    told = evaluate(*arguments, "--transform", "squash").stderr.splitlines()
    assert len(told) == 1  # exact noise is at home in any of them
    assert f"{noises['encoder']} was learned on images that were read another way" in told[0]
    assert "(bicubic, crop_pct 1, center)" in told[0]
    assert "(bilinear, crop_pct 1, squash)" in told[0]


def test_squashed_images_are_those_of_the_paper(
    evaluate: Vitnull, data: Path, noises: dict[str, Path], tiny_vit: tuple[str, ...], tmp_path: Path, tiny: "Reference"
) -> None:
    from torchvision import transforms

    options = ("--transform", "squash", "--per-image", "i.jsonl", "--json")
    document = evaluate(*tiny_vit, "--noise", noises["input"], *options).document
    assert document["transform"] == "squash"
    config = document["data_config"]
    assert (config["crop_mode"], config["crop_pct"], config["interpolation"]) == ("squash", 1.0, "bilinear")
    mean, std = tiny.config["mean"], tiny.config["std"]
    plain = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(mean, std)],
    )
    record = json.loads((tmp_path / "i.jsonl").read_text().splitlines()[0])
    with Image.open(record["image"]) as image, torch.inference_mode():
        probabilities = tiny.module(plain(image)[None])[0].double().softmax(0)
    assert record["before"]["probability"] == pytest.approx(float(probabilities.max()), rel=1e-5)


# Exact noise


def test_exact_noise_is_never_noticed(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    sigmas = ("--sigma", "0.1", "--sigma", "1", "--sigma", "10")
    document = evaluate("demo", "--noise", noises["basis"], *sigmas, "--json").document
    exact = [result for result in document["results"] if result["control"] == "none"]
    assert [result["sigma"] for result in exact] == [0.1, 1.0, 10.0]
    assert [result["match_percent"] for result in exact] == [100.0] * 3
    assert {result["kind"] for result in document["results"]} == {"exact"}
    assert max(result["logit_mse"] for result in exact) < 1e-6
    for result in document["results"]:
        assert result["noise_norm"] == pytest.approx(result["sigma"] / 0.5 * math.sqrt(3 * 224 * 224), rel=1e-5)
        if result["control"] != "none":
            assert result["logit_mse"] > 1e-2
        if result["control"] != "none" and result["sigma"] == 10:
            assert result["match_percent"] < 50


# Controls


def test_controls_and_trials(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    command = ("demo", "--noise", noises["encoder"], "--trials", "3", "--count", "6", "--json")
    document = evaluate(*command).document
    assert [(result["control"], result["trials"]) for result in document["results"]] == [
        ("none", 1),
        ("shuffle", 3),
        ("uniform", 3),
    ]
    for result in document["results"]:
        assert len(result["match_trials"]) == result["trials"]
        assert sum(result["match_trials"]) / result["trials"] == pytest.approx(result["match_percent"])
        assert result["noise_norm"] == pytest.approx(document["results"][0]["noise_norm"], rel=1e-6)
    assert evaluate(*command).document["results"] == document["results"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("none", ["none"]), ("uniform", ["none", "uniform"]), ("uniform, shuffle", ["none", "shuffle", "uniform"])],
)
def test_the_controls_that_are_asked_for(
    evaluate: Vitnull, noises: dict[str, Path], given: str, expected: list[str]
) -> None:
    options = ("--controls", given, "--count", "4", "--json")
    document = evaluate("demo", "--noise", noises["input"], *options).document
    assert [result["control"] for result in document["results"]] == expected
    assert document["images"] == 4


# Models without a head, and pixels that bring tokens about


def test_a_model_without_a_head(
    evaluate: Vitnull, noises: dict[str, Path], tiny_vit: tuple[str, ...], tmp_path: Path
) -> None:
    headless = (*tiny_vit, "--model-kwargs", "num_classes=0", "--noise", str(noises["input"]))
    document = evaluate(*headless, "--json", "--per-image", "i.jsonl").document
    check_keys(document, EVAL)
    assert (document["outputs"], document["accuracy"]) == ("features", None)
    assert document["ground_truth"] == "the model has no head"
    for result in document["results"]:
        for name in ("match_percent", "match_ci95", "match_trials", "logit_mse", "probability_mse", "accuracy"):
            assert result[name] is None
        assert result["feature_mse"] > 0
        assert -1 <= result["feature_cosine"] <= 1
    record = json.loads((tmp_path / "i.jsonl").read_text().splitlines()[0])
    assert (record["before"], record["after"], record["match"], record["correct"]) == (None,) * 4
    refused = evaluate(*headless, "--min-match", "50", expect=2)
    assert "has no head" in refused.stderr


def test_realised(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    options = ("--realise", "--bound", "30", "--controls", "uniform", "--count", "4", "--json")
    document = evaluate("demo", "--noise", noises["encoder"], noises["input"], *options).document
    check_keys(document, EVAL)
    assert [(result["level"], result["realised"], result["control"]) for result in document["results"]] == [
        ("encoder", False, "none"),
        ("encoder", False, "uniform"),
        ("input", True, "none"),
        ("input", True, "uniform"),
        ("input", False, "none"),
        ("input", False, "uniform"),
    ]
    realised = document["results"][2]
    assert 0 < realised["residual"] < 1
    assert realised["solver"]["bound"] == 30
    assert document["results"][0]["residual"] is None


def test_nothing_to_realise(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    outcome = evaluate("demo", "--noise", noises["input"], "--realise", "--count", "1")
    assert "no noise at encoder level" in outcome.stderr


# Files


def test_the_files_hold_the_same_numbers(evaluate: Vitnull, data: Path, noises: dict[str, Path]) -> None:
    written = ("--csv", "r.csv", "--per-image", "i.jsonl", "-o", "r.json")
    outcome = evaluate("demo", "--noise", noises["encoder"], noises["basis"], "--trials", "2", "--json", *written)
    document = outcome.document
    assert json.loads(Path("r.json").read_text()) == document
    with Path("r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, result in zip(rows, document["results"], strict=True):
        for name in ("match_percent", "logit_mse", "logit_mse_per_class", "feature_cosine", "noise_norm"):
            assert float(row[name]) == result[name]
        assert [float(row["match_low"]), float(row["match_high"])] == result["match_ci95"]
        assert [float(value) for value in row["match_trials"].split()] == result["match_trials"]
        assert {name: float(row[f"accuracy_{name}"]) for name in ("clean", "noisy")} == result["accuracy"]
        assert (row["control"], row["noise"], row["limit"]) == (
            result["control"],
            result["noise"],
            "" if result["limit"] is None else str(result["limit"]),
        )

    records = [json.loads(line) for line in Path("i.jsonl").read_text().splitlines()]
    assert len(records) == COUNT * 2 * 5
    assert [record["image"] for record in records[::10]] == [
        str(path) for path in sorted((data / "val").rglob("*.png"))
    ]
    for result in document["results"]:
        mine = [
            record
            for record in records
            if (record["noise"], record["sigma"], record["control"])
            == (result["noise"], result["sigma"], result["control"])
        ]
        assert len(mine) == COUNT * result["trials"]
        assert {record["trial"] for record in mine} == set(range(result["trials"]))

        def mean(values: list[float]) -> Any:
            return pytest.approx(sum(values) / len(values), rel=1e-9)

        assert result["match_percent"] == mean([100 * record["match"] for record in mine])
        assert result["logit_mse"] == mean([record["logit_mse"] for record in mine])
        assert result["feature_cosine"] == mean([record["feature_cosine"] for record in mine])
        assert result["accuracy"]["noisy"] == mean([100 * record["correct"]["after"] for record in mine])
        for record in mine:
            assert record["label"] == Path(record["image"]).parent.name
            assert record["match"] == (record["before"]["class"] == record["after"]["class"])
            assert record["correct"]["before"] == (record["before"]["label"] == record["label"])


def test_the_table(evaluate: Vitnull, data: Path, noises: dict[str, Path]) -> None:
    outcome = evaluate("demo", "--noise", noises["encoder"], "--controls", "shuffle")
    assert outcome.stderr == ""
    header, real, control, blank, last = outcome.stdout.splitlines()
    assert header.split()[:4] == ["noise", "level", "size", "control"]
    assert str(noises["encoder"]) in real
    assert "limit 6" in real
    assert "shuffle" in control
    assert blank == ""
    assert last.startswith(f"demo on {COUNT} images of {data}; accuracy ")
    assert last.endswith("(folders are names of classes); mse: summed over the outputs, mean over the images")


def test_a_flat_folder_has_no_accuracy(vitnull: Vitnull, photo: Path, noises: dict[str, Path]) -> None:
    document = vitnull("eval", "demo", "--data", photo.parent, "--noise", noises["input"], "--json").document
    check_keys(document, EVAL)
    assert (document["images"], document["accuracy"]) == (1, None)
    assert document["ground_truth"] == "the images are not in class folders"
    assert {result["accuracy"] for result in document["results"]} == {None}


# A check that was asked for


def test_min_match(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    """The controls may match as seldom as they like."""
    exact = ("demo", "--noise", noises["basis"], "--sigma", "10")
    assert evaluate(*exact, "--min-match", "100").stderr == ""
    outcome = evaluate(*exact, "--noise", noises["input"], "--min-match", "100", "--json", expect=3)
    assert len(outcome.document["results"]) == 6
    assert outcome.stderr.count("vitnull: error:") == 1
    assert f"{noises['input']} keeps" in outcome.stderr
    assert "less than 100%" in outcome.stderr


# Refusals


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The data with a file that is no picture."""
    copy = tmp_path / "spoilt"
    shutil.copytree(data, copy)
    bad = sorted(copy.rglob("*.png"))[4]
    bad.write_text("no picture")
    return copy, bad


def test_a_bad_image(vitnull: Vitnull, spoilt: tuple[Path, Path], noises: dict[str, Path]) -> None:
    folder, bad = spoilt
    command = ("eval", "demo", "--data", folder, "--noise", noises["input"], "--controls", "none", "--json")
    outcome = vitnull(*command, "-o", "r.json", expect=1)
    assert str(bad) in outcome.stderr
    assert (outcome.stdout, contents()) == ("", ["spoilt"])
    outcome = vitnull(*command, "--skip-bad")
    assert (outcome.document["images"], outcome.document["skipped"]) == (COUNT - 1, [str(bad)])
    assert outcome.stderr.count(str(bad)) == 1
    assert outcome.stderr.startswith("vitnull: warning: ")


def test_tokens_of_another_model(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    for model in (("demo-cnn",), ("demo", "--no-pretrained")):
        outcome = evaluate(*model, "--noise", noises["encoder"], expect=1)
        assert "is encoder-level noise of demo" in outcome.stderr


def test_what_is_refused_before_anything_is_loaded(
    vitnull: Vitnull, data: Path, noises: dict[str, Path], no_model: None, tmp_path: Path
) -> None:
    noise, there = noises["input"], tmp_path / "there.csv"
    there.write_text("mine")
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"")

    def refused(*arguments: str | Path, code: int) -> str:
        return vitnull("eval", *arguments, expect=code).message

    asked = ("demo", "--data", data, "--noise", noise)
    assert "There is no file none.safetensors" in refused(*asked[:4], "none.safetensors", code=1)
    assert "not a readable safetensors file" in refused(*asked[:4], other, code=1)
    assert "there.csv exists already" in refused(*asked, "--csv", there, code=1)
    assert "does not exist" in refused(*asked, "--per-image", "no/i.jsonl", code=1)
    assert "is a folder" in refused(*asked, "-o", "empty", code=1)
    assert "holds no images" in refused("demo", "--data", tmp_path / "empty", "--noise", noise, code=1)
    assert "has no folder train/" in refused(*asked, "--split", "train", code=1)
    assert "at least one file" in refused("demo", "--data", data, code=2)
    assert "the first argument is the model" in refused("--data", data, "--noise", noise, noise, code=2)
    assert "'shuffled' is none of" in refused(*asked, "--controls", "shuffled", code=2)
    assert "none excludes" in refused(*asked, "--controls", "none,shuffle", code=2)
    assert "not a number above 0" in refused(*asked, "--sigma", "0", code=2)
    assert "not a number above 0" in refused(*asked, "--bound", "0", code=2)
    assert "several results would be written to a" in refused(*asked, "--csv", "a", "-o", "a", code=2)
    assert "a JSON document is a .json" in refused(*asked, "-o", noise, "--force", code=2)
    (tmp_path / "link.json").symlink_to(noise)
    assert "its own input" in refused(*asked, "-o", "link.json", "--force", code=2)
    (tmp_path / "link.json").unlink()
    assert there.read_text() == "mine"
    assert contents() == ["empty", "other.safetensors", "there.csv"]


def test_an_artefact_of_another_kind(evaluate: Vitnull, no_model: None, tmp_path: Path) -> None:
    about = {"kind": "watermark", "schema": "vitnull/watermark/1"}
    write_unchecked(tmp_path / "w.safetensors", {"image": torch.zeros(3)}, about)
    assert "holds a watermark; expected a noise" in evaluate("demo", "--noise", "w.safetensors", expect=1).stderr


# Several processes, and a GPU


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert (found["images"], found["accuracy"], found["skipped"]) == (
        expected["images"],
        expected["accuracy"],
        expected["skipped"],
    )
    for a, b in zip(found["results"], expected["results"], strict=True):
        assert a["match_trials"] == b["match_trials"]
        for name in ("logit_mse", "probability_mse", "feature_mse", "feature_cosine", "noise_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-3)


@pytest.mark.slow
def test_two_processes_are_as_one(
    torchrun: Callable[..., subprocess.CompletedProcess[str]],
    evaluate: Vitnull,
    data: Path,
    noises: dict[str, Path],
    tmp_path: Path,
) -> None:
    command = ("demo", "--noise", noises["encoder"], noises["input"], "--trials", "2", "--count", "11", "--json")
    result = torchrun("eval", *command, "--data", data, "--per-image", "two.jsonl", "--csv", "two.csv")
    assert (result.returncode, result.stderr) == (0, "written: two.csv\nwritten: two.jsonl\n")
    assert_same(json.loads(result.stdout), evaluate(*command, "--per-image", "one.jsonl").document)
    one, two = (
        [json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in ("one", "two")
    )
    keys = ("image", "label", "noise", "control", "trial", "match", "correct")
    assert [[record[key] for key in keys] for record in one] == [[record[key] for key in keys] for record in two]
    assert contents(tmp_path) == ["one.jsonl", "two.csv", "two.jsonl"]


@pytest.mark.slow
def test_a_bad_image_in_one_of_two_processes(
    torchrun: Callable[..., subprocess.CompletedProcess[str]], spoilt: tuple[Path, Path], noises: dict[str, Path]
) -> None:
    folder, bad = spoilt
    command = ("demo", "--data", folder, "--noise", noises["input"], "--controls", "none", "--json")
    result = torchrun("eval", *command)
    assert result.returncode != 0
    assert result.stdout == ""
    assert f"vitnull: error: Cannot read {bad}" in result.stderr
    assert "nullspace_cli/" not in result.stderr, "a traceback"  # torchrun shows one of its own
    result = torchrun("eval", *command, "--skip-bad")
    assert result.returncode == 0
    assert json.loads(result.stdout)["skipped"] == [str(bad)]


@pytest.mark.gpu
def test_on_a_gpu(evaluate: Vitnull, noises: dict[str, Path]) -> None:
    command = ("demo", "--noise", noises["encoder"], noises["input"], "--json", "--device")
    assert_same(evaluate(*command, "cuda").document, evaluate(*command, "cpu").document)


# Pictures of one run, and of several


def test_plots(evaluate: Vitnull, vitnull: Vitnull, noises: dict[str, Path]) -> None:
    run = ("demo", noises["encoder"], noises["basis"], "--controls", "shuffle", "--count", "3")
    document = evaluate(*run, "--out", "a.json", "--plot", "a.png", "--json").document
    assert json.loads(Path("a.json").read_text()) == document
    said = evaluate(*run, "--results", "a.json", "--plot", "b.png", "--csv", "b.csv").stderr
    assert "written: b.csv\nwritten: b.png\n" in said
    assert vitnull("eval", "--results", "a.json", "--plot", "c.png").stdout == "c.png\n"
    for file, format in {"c.jpg": "JPEG", "c.webp": "WEBP", "c.tiff": "TIFF", "c.PNG": "PNG"}.items():
        vitnull("eval", "--results", "a.json", "--plot", file)
        with Image.open(file) as picture:
            assert picture.format == format
    for file, start in {"c.svg": b"<?xml", "c.pdf": b"%PDF"}.items():
        for name in (file, f"again.{file}"):
            vitnull("eval", "--results", "a.json", "--plot", name)
        assert Path(file).read_bytes().startswith(start)
        assert Path(file).read_bytes() == Path(f"again.{file}").read_bytes()
    again = vitnull("eval", "--results", "a.json", "--results", "a.json", "--plot", "d.png", "--json").document
    assert again == {"schema": "vitnull/eval-plot/1", "plot": "d.png", "results": ["a.json", "a.json"]}
    for name in "abcd":
        with Image.open(f"{name}.png") as picture:
            assert picture.size[0] > 800
    assert "exists already" in vitnull("eval", "--results", "a.json", "--plot", "c.png", expect=1).message


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "vitnull/basis/1"}'])
def test_documents_that_cannot_be_drawn(vitnull: Vitnull, no_model: None, text: str) -> None:
    Path("a.json").write_text(text)
    assert "a.json" in vitnull("eval", "--results", "a.json", "--plot", "a.png", expect=1).message
    assert contents() == ["a.json"]


def test_nothing_to_run(vitnull: Vitnull, no_model: None) -> None:
    assert "--data DATA" in vitnull("eval", "demo", expect=2).message
    assert "--data DATA" in vitnull("eval", expect=2).message
