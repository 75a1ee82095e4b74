"""`vitnull watermark --size model`: what the files hold, measured again with plain timm; and what is refused."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cli.contract import WATERMARK, check_keys
from tests.cli.reference import Array, Reference, pixels_of
from tests.conftest import Outcome, Vitnull, contents

OUTPUT = "photo.watermarked.png"
MODEL_SIZE = ("--size", "model")


@pytest.fixture(params=["tiny", pytest.param("demo", marks=pytest.mark.slow)])
def reference(request: pytest.FixtureRequest) -> Reference:
    reference: Reference = request.getfixturevalue(request.param)
    return reference


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Vitnull:
    """`vitnull watermark IMAGE... logo.png --model <the tiny ViT> --size model --json`, with further options."""

    def stamp(*arguments: str | Path, **options: Any) -> Outcome:
        return vitnull("watermark", *arguments, logo, "--model", *tiny_vit, *MODEL_SIZE, "--json", **options)

    return stamp


def planes(pixels: Array) -> Array:
    """8-bit pixels [h, w, 3] as [3, h, w] in [0, 1]."""
    return np.asarray(pixels.transpose(2, 0, 1) / 255)


def exact(path: str = "exact.safetensors") -> tuple[Array, Array, Array]:
    tensors = load_file(path)
    image, source, target = (tensors[name].double().numpy() for name in ("image", "source", "target"))
    return image, source, target


def change(before: Tensor, after: Tensor) -> float:
    return float((after - before).norm() / before.norm())


# What the watermark holds, measured without this package


def test_the_file_has_the_sources_embeddings(vitnull: Vitnull, reference: Reference, photo: Path, logo: Path) -> None:
    document = vitnull("watermark", photo, logo, *MODEL_SIZE, "--model", *reference.arguments, "--json").document
    check_keys(document, WATERMARK)
    (record,) = document["images"]
    assert (record["source"], record["output"], record["nullspace"]) == (str(photo), OUTPUT, "patch")
    error = change(reference.embeddings(photo), reference.embeddings(OUTPUT))
    assert error == pytest.approx(record["embedding_error"], rel=1e-4)
    assert error < 0.01
    # And yet the network's input has changed a good deal.
    assert change(reference.input(photo), reference.input(OUTPUT)) > 0.1
    solver = record["solver"]
    assert (solver["norm"], solver["status"]) in ((2, "solved"), (2, "eased"))
    assert solver["residual"] <= 1e-8
    assert solver["bound_violation"] <= 1e-9
    changed = np.mean(reference.visible(photo).round(4) != reference.visible(OUTPUT).round(4))
    assert record["input_pixels_changed"] == pytest.approx(changed)


def test_the_answers_are_the_models(vitnull: Vitnull, reference: Reference, photo: Path, logo: Path) -> None:
    document = vitnull("watermark", photo, logo, *MODEL_SIZE, "--model", *reference.arguments, "--json").document
    (record,) = document["images"]
    for path, answer in ((photo, record["before"]), (OUTPUT, record["after"])):
        index, probability = reference.answer(path)
        assert answer["class"] == index
        assert answer["probability"] == pytest.approx(probability, rel=1e-4)
    assert record["match"] is True
    assert record["before"]["class"] == record["after"]["class"]
    difference = abs(record["after"]["probability"] - record["before"]["probability"])
    assert record["confidence_change"] == pytest.approx(difference, abs=1e-12)
    assert 0.999 < record["feature_cosine"] <= 1


def test_the_exact_solution(vitnull: Vitnull, reference: Reference, photo: Path, logo: Path) -> None:
    options = (*MODEL_SIZE, "--float", "exact.safetensors", "--json")
    (record,) = vitnull("watermark", photo, logo, "--model", *reference.arguments, *options).document["images"]
    image, source, target = exact()
    width, height = record["size"]
    assert image.shape == source.shape == target.shape == (3, height, width)

    # 0 <= z <= 1, and A z = A x on every patch, by orthonormal rows: to the accuracy that the certificate claims.
    violation, residual = record["solver"]["bound_violation"], record["solver"]["residual"]
    assert -violation <= image.min() <= image.max() <= 1 + violation
    std = np.array(reference.config["std"])[:, None, None]
    rows = scipy.linalg.orth((reference.kernel.numpy() / std).reshape(len(reference.kernel), -1).T).T
    size, side = reference.size, reference.kernel.shape[-1]
    top, left = round((height - size) / 2), round((width - size) / 2)
    crop = np.s_[:, top : top + size, left : left + size]
    count = size // side
    noise = (image - source)[crop].reshape(3, count, side, count, side)
    patches = noise.transpose(1, 3, 0, 2, 4).reshape(count * count, -1)
    assert np.linalg.norm(patches @ rows.T, axis=1).max() <= max(residual, 1e-12) * 1.01
    assert np.abs(patches).max() > 0.1

    # The source is the photo as the model's transform resizes it.
    assert np.abs(source[crop] - reference.visible(photo)).max() < 1e-6

    # Closest to the target: of all solutions on the way to the source, none comes closer.
    distances = [np.linalg.norm(image + t * (source - image) - target) for t in (0, 0.01, 0.1, 1)]
    assert distances == sorted(distances)


def test_rounding(stamp: Vitnull, photo: Path) -> None:
    """The nearest levels are those of the solution; others, not far from it, keep more of what the solution kept."""
    errors = {}
    for rounding in ("nearest", "aware"):
        options = ("--rounding", rounding, "--tolerance", "1", "--float", "exact.safetensors", "--force")
        (record,) = stamp(photo, *options, "-o", f"{rounding}.png").document["images"]
        assert record["rounding"] == rounding
        errors[rounding] = record["embedding_error"]
    image, _, _ = exact()
    assert np.array_equal(pixels_of("nearest.png"), np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0))
    assert np.abs(planes(pixels_of("aware.png")) - image).mean() < 1 / 255
    assert errors["aware"] < errors["nearest"] / 2


def test_the_measures_of_the_picture(stamp: Vitnull, photo: Path) -> None:
    (record,) = stamp(photo, "--float", "exact.safetensors").document["images"]
    _, source, target = exact()
    shown = planes(pixels_of(OUTPUT))
    assert record["psnr"] == pytest.approx(-10 * np.log10(np.mean((shown - source) ** 2)))
    wanted = np.rint(target.clip(0, 1) * 255) / 255 - source
    correlation = np.corrcoef((shown - source).ravel(), wanted.ravel())[0, 1]
    assert record["mark_correlation"] == pytest.approx(correlation)
    assert correlation > 0.3


def test_strength_makes_the_mark_more_visible(stamp: Vitnull, photo: Path) -> None:
    """Measured by how much of the mark, as it was drawn, is in the picture's change."""
    records, shares = [], []
    for strength in ("0", "1", "3", "10"):
        options = ("--min-legibility", "0", "--float", f"{strength}.safetensors", "--force")
        outcome = stamp(photo, "--strength", strength, *options)
        records += outcome.document["images"]
        _, source, marked = exact("1.safetensors" if strength != "0" else "0.safetensors")
        mark, noise = marked - source, planes(pixels_of(OUTPUT)) - source
        shares.append(0.0 if strength == "0" else float((noise * mark).sum() / (mark * mark).sum()))
    assert shares == sorted(shares)
    assert shares[-1] > shares[1] + 0.05
    assert [record["psnr"] for record in records[1:]] == sorted((r["psnr"] for r in records[1:]), reverse=True)
    assert all(record["verified"] for record in records)
    unmarked = records[0]
    assert (unmarked["psnr"], unmarked["mark_correlation"], unmarked["input_pixels_changed"]) == (None, None, 0)


def test_position_and_scale_keep_the_rest_as_it_was(stamp: Vitnull, photo: Path) -> None:
    stamp(photo, "--position", "top-left", "--scale", "0.3", "--float", "exact.safetensors")
    image, source, target = exact()
    _, height, width = image.shape
    assert np.abs(target - source)[:, : height // 3, : width // 3].max() > 0.1
    assert np.array_equal(image[:, height // 2 :, width // 2 :], source[:, height // 2 :, width // 2 :])


def test_fit(stamp: Vitnull, photo: Path) -> None:
    """How much of the picture is marked: a wide logo fills little of its box, unless it is stretched or cropped."""
    marked = {}
    for fit in ("contain", "cover", "stretch"):
        stamp(photo, "--fit", fit, "--float", f"{fit}.safetensors", "--out", f"{fit}.png")
        _, source, target = exact(f"{fit}.safetensors")
        marked[fit] = int((np.abs(target - source).max(0) > 0.1).any(1).sum())
    assert marked["contain"] < min(marked["cover"], marked["stretch"])


def test_no_opacity_is_no_mark(stamp: Vitnull, photo: Path) -> None:
    document = stamp(photo, "--opacity", "0", expect=3).document
    assert document["images"][0]["input_pixels_changed"] == 0
    assert document["summary"]["bit_identical"] == 1


# Files


def test_the_same_bytes_on_two_runs(stamp: Vitnull, photo: Path) -> None:
    for name in ("a", "b"):
        files = {"--out": f"{name}.png", "--diff": f"{name}.diff.png", "--float": f"{name}.safetensors"}
        stamp(photo, *(word for pair in files.items() for word in pair))
    for suffix in ("png", "diff.png", "safetensors"):
        assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()


def test_the_picture_of_the_noise(stamp: Vitnull, photo: Path) -> None:
    (record,) = stamp(photo, "--diff", "noise.png", "--float", "exact.safetensors").document["images"]
    assert record["diff"] == "noise.png"
    image, source, _ = exact()
    shown = planes(pixels_of("noise.png"))
    assert shown.shape == image.shape
    saved = (pixels_of(OUTPUT).astype(float) - np.rint(source * 255).transpose(1, 2, 0)) * record["diff_gain"]
    assert np.abs(128 + saved - pixels_of("noise.png")).max() <= 0.5
    unchanged = np.abs(image - source).max(0) == 0
    assert np.abs(shown[:, unchanged] - 0.5).max(initial=0) < 0.01
    assert np.abs(shown * 255 - 128).max() == pytest.approx(127)


def test_the_source_is_left_as_it_is(stamp: Vitnull, photo: Path, logo: Path) -> None:
    before = photo.read_bytes(), logo.read_bytes()
    stamp(photo)
    assert (photo.read_bytes(), logo.read_bytes()) == before
    assert contents() == [OUTPUT]


def test_the_human_result(vitnull: Vitnull, tiny_vit: tuple[str, ...], photo: Path, logo: Path) -> None:
    outcome = vitnull("watermark", photo, logo, *MODEL_SIZE, "--model", *tiny_vit)
    assert outcome.stderr == ""
    rows = dict(line.split(maxsplit=1) for line in outcome.stdout.splitlines() if line)
    assert rows["image"].startswith(f"{photo} -> {OUTPUT} (")
    assert rows["after"].endswith("same class")
    assert rows["embedding"].startswith("changed by 0.")


def test_no_file_is_overwritten(stamp: Vitnull, no_weights: None, photo: Path) -> None:
    options = {"--out": "out.png", "--diff": "diff.png", "--float": "float.safetensors"}
    for name in options.values():
        Path(name).write_text("precious")
        message = stamp(photo, *(word for pair in options.items() for word in pair), expect=1).message
        assert f"{name} exists already" in message
        assert contents() == [name]
        Path(name).unlink()


def test_force_overwrites(stamp: Vitnull, photo: Path) -> None:
    Path(OUTPUT).write_text("old")
    stamp(photo, "--force")
    assert pixels_of(OUTPUT).std() > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--out", "missing/out.png"), "the folder missing does not exist"),
        (("--out", "file/out.png"), "Cannot write file/out.png"),
        (("--float", "missing/x.safetensors"), "the folder missing does not exist"),
        (("--out-dir", "file"), "Cannot create the folder file"),
        (("--out-dir", "file/below"), "Cannot create the folder file/below"),
    ],
)
def test_output_that_cannot_be_written(
    stamp: Vitnull, no_weights: None, photo: Path, options: tuple[str, str], reason: str
) -> None:
    Path("file").touch()
    assert reason in stamp(photo, *options, expect=1).message
    assert contents() == ["file"]


# Several images


def test_failures_of_a_batch_are_named_and_the_others_done(stamp: Vitnull, photo: Path) -> None:
    for name in ("a.png", "b.png", "cut.png"):
        shutil.copy(photo, name)
    with Path("cut.png").open("r+b") as file:
        file.truncate(photo.stat().st_size // 2)
    Path("text.png").write_text("no picture")
    names = ("a.png", "text.png", "missing.png", "cut.png", "b.png")
    outcome = stamp(*names, "--out-dir", "made/marked", expect=4)
    check_keys(outcome.document, WATERMARK)
    assert [record["source"] for record in outcome.document["images"]] == ["a.png", "b.png"]
    summary = outcome.document["summary"]
    assert (summary["count"], summary["failed"], summary["matched"]) == (2, 3, 2)
    assert summary["match_percent"] == 100
    assert contents("made/marked") == ["a.watermarked.png", "b.watermarked.png"]
    for name in ("text.png", "missing.png", "cut.png"):
        assert f"vitnull: error: Cannot read {name}: " in outcome.stderr
    assert outcome.stderr.count("\n") == 3


def test_the_summary_of_a_batch(stamp: Vitnull, photo: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(photo, name)
    document = stamp("a.png", "b.png").document
    first, second = document["images"]
    changes = [record["confidence_change"] for record in (first, second)]
    assert document["summary"]["mean_confidence_change"] == pytest.approx(np.mean(changes))
    assert (document["summary"]["count"], document["summary"]["failed"]) == (2, 0)
    assert (first["output"], second["output"]) == ("a.watermarked.png", "b.watermarked.png")
    assert pixels_of("a.watermarked.png").tobytes() == pixels_of("b.watermarked.png").tobytes()


# Verification


def test_a_watermark_that_fails_verification(stamp: Vitnull, photo: Path) -> None:
    outcome = stamp(photo, "--tolerance", "0", expect=3)
    (record,) = outcome.document["images"]
    assert record["verified"] is False
    assert OUTPUT in outcome.message
    assert "tolerance" in outcome.message
    assert contents() == [OUTPUT]


def test_without_verification(stamp: Vitnull, photo: Path) -> None:
    document = stamp(photo, "--no-verify", "--tolerance", "0").document
    (record,) = document["images"]
    for name in ("before", "after", "match", "embedding_error", "logit_mse", "feature_cosine", "confidence_change"):
        assert record[name] is None
    assert record["solver"]["status"] == "solved"
    assert (document["summary"]["matched"], document["summary"]["match_percent"]) == (None, None)


def test_a_model_without_a_head(stamp: Vitnull, photo: Path) -> None:
    document = stamp(photo, "--model-kwargs", "num_classes=0").document
    (record,) = document["images"]
    for name in ("before", "after", "match", "logit_mse", "confidence_change"):
        assert record[name] is None
    assert record["embedding_error"] < 0.01
    assert record["feature_cosine"] > 0.999
    assert (document["summary"]["matched"], document["summary"]["match_percent"]) == (None, None)


# What is refused for how it was asked: exit code 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a.png --out a.gif", "a.gif"),
        ("a.png --out a.jpg", "--size"),
        ("a.png --format same", "--size"),
        ("a.png --out c.png --format jpg", "--format"),
        ("a.png --quality 0", "--quality"),
        ("a.png --out a", "no ending that says the format"),
        ("a.png --out a.gif", "none is written as .gif"),
        ("a.png --out -", "stdout has the JSON already"),
        ("a.png --out folder", "it is a folder"),
        ("a.png --diff a.jpg", "--diff"),
        ("a.png b.png --out c.png", "--out"),
        ("a.png b.png --diff c.png", "--diff"),
        ("a.png b.png --float c.safetensors", "--float"),
        ("a.png --out c.png --out-dir d", "--out-dir"),
        ("a.png folder/a.png", "a.png.watermarked.png"),
        ("a.png --out c.png --diff c.png", "c.png"),
        ("a.png --out folder/../a.png --force", "a.png"),
        ("a.png a.watermarked.png --force", "a.watermarked.png"),
        ("a.png --norm 3", "--norm"),
        ("a.png --nullspace resize", "--nullspace"),
        ("a.png --jsonl", "--json or --jsonl, not both"),
        ("a.png --workers 0", "--workers"),
        ("a.png --treatment wavy", "--treatment"),
        ("a.png --rounding up", "--rounding"),
        ("a.png --strength nan", "--strength"),
        ("a.png --scale 0", "--scale"),
        ("a.png --position middle", "--position"),
        ("", "is the only one named"),
    ],
)
def test_usage_errors(stamp: Vitnull, no_weights: None, photo: Path, line: str, named: str) -> None:
    Path("folder").mkdir()
    for name in ("a.png", "b.png", "a.watermarked.png", "folder/a.png"):
        shutil.copy(photo, name)
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    outcome = stamp(*line.split(), expect=2)
    assert named in outcome.message
    assert outcome.stdout == ""
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


# Bad images and marks: exit code 1, before a model is loaded


def bomb(path: Path) -> None:
    """A PNG that claims ten thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no such file"),
    "empty": (Path.touch, "the file is empty"),
    "text": (lambda path: path.write_text("This is no picture.\n" * 100), "it is not a PNG"),
    "cut off": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00"), "damaged or truncated"),
    "bomb": (bomb, "more than"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_images(stamp: Vitnull, no_weights: None, kind: str) -> None:
    make, reason = BAD[kind]
    make(Path("bad.png"))
    outcome = stamp("bad.png", expect=1)
    assert outcome.message.startswith("vitnull: error: Cannot read bad.png: ")
    assert reason in outcome.message
    assert outcome.stdout == ""


@pytest.mark.parametrize("kind", BAD)
def test_bad_marks(vitnull: Vitnull, no_weights: None, photo: Path, kind: str) -> None:
    make, reason = BAD[kind]
    make(Path("bad.png"))
    outcome = vitnull("watermark", photo, "bad.png", "--model", "demo", expect=1)
    assert outcome.message.startswith("vitnull: error: Cannot read bad.png: ")
    assert reason in outcome.message


def test_a_folder_is_no_mark(vitnull: Vitnull, no_weights: None, photo: Path) -> None:
    Path("marks").mkdir()
    outcome = vitnull("watermark", photo, "marks", "--model", "demo", expect=2)
    assert "marks is a folder" in outcome.message


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
def test_blank_marks(vitnull: Vitnull, no_weights: None, photo: Path, mode: str) -> None:
    colour: Any = {"RGBA": (255, 0, 0, 0), "RGB": (10, 20, 30), "L": 255}[mode]
    Image.new(mode, (40, 20), colour).save("blank.png")
    outcome = vitnull("watermark", photo, "blank.png", "--model", "demo", expect=1)
    assert "blank.png is blank" in outcome.message


def test_an_image_that_is_cut_off_in_its_data(stamp: Vitnull, photo: Path) -> None:
    Path("cut.png").write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    message = stamp("cut.png", expect=1).message
    assert "Cannot read cut.png: the image is damaged or truncated" in message
    assert contents() == ["cut.png"]


def test_an_image_that_no_resize_can_take(stamp: Vitnull) -> None:
    Image.new("L", (1, 30_000)).save("line.png")
    assert "too elongated" in stamp("line.png", expect=1).message


def test_a_model_without_a_nullspace(vitnull: Vitnull, photo: Path, logo: Path) -> None:
    outcome = vitnull("watermark", photo, logo, *MODEL_SIZE, "--model", "demo-cnn", expect=5)
    assert outcome.message.startswith("vitnull: error: demo-cnn has no exact nullspace: its first layers")
    assert contents() == []


# The basis that may be given


@pytest.fixture
def basis(vitnull: Vitnull, tiny_vit: tuple[str, ...]) -> Callable[..., str]:
    def basis(*options: str, name: str = "a.basis.safetensors") -> str:
        vitnull("basis", *tiny_vit, "--no-preview", "--no-check", "-o", name, *options)
        return name

    return basis


@pytest.mark.parametrize("options", [[], ["--compact"]], ids=["whole", "compact"])
def test_a_basis_of_this_model(stamp: Vitnull, basis: Callable[..., str], photo: Path, options: list[str]) -> None:
    stamp(photo, "--out", "without.png")
    stamp(photo, "--out", "with.png", "--basis", basis(*options))
    difference = pixels_of("with.png").astype(int) - pixels_of("without.png").astype(int)
    assert np.abs(difference).max() <= 1  # the solutions agree to 1e-9, a rounding may still go either way
    assert np.mean(difference != 0) < 0.001


def test_a_basis_per_channel_is_used(stamp: Vitnull, basis: Callable[..., str], photo: Path) -> None:
    """Its nullspace is smaller: it, too, keeps the embeddings, and less of the mark."""
    joint = stamp(photo, "--out", "joint.png").document["images"][0]
    apart = stamp(photo, "--out", "apart.png", "--basis", basis("--per-channel")).document["images"][0]
    assert apart["embedding_error"] < 0.01
    assert apart["mark_correlation"] < joint["mark_correlation"] - 0.01


def test_a_basis_of_other_weights(stamp: Vitnull, basis: Callable[..., str], photo: Path) -> None:
    message = stamp(photo, "--basis", basis("--seed", "1"), expect=1).message
    assert "a.basis.safetensors was made from other weights" in message
    assert contents() == ["a.basis.safetensors"]


def test_a_basis_in_another_space(stamp: Vitnull, basis: Callable[..., str], photo: Path) -> None:
    stamp(photo, "--out", "own.png")
    stamp(photo, "--out", "basis.png", "--basis", basis("--space", "normalized"))
    own, other = (pixels_of(f"{name}.png").astype(int) for name in ("own", "basis"))
    assert np.abs(own - other).mean() < 0.01


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "There is no file bad.safetensors"),
        ("noise", "bad.safetensors is not a readable safetensors file"),
        ("cut off", "bad.safetensors is not a readable safetensors file"),
        ("foreign", "bad.safetensors was not written by vitnull"),
        ("watermark", "bad.safetensors holds a watermark; expected a basis"),
    ],
)
def test_bad_bases(
    stamp: Vitnull, basis: Callable[..., str], photo: Path, request: pytest.FixtureRequest, kind: str, reason: str
) -> None:
    path = Path("bad.safetensors")
    if kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(4096))
    elif kind == "cut off":
        path.write_bytes(Path(basis()).read_bytes()[:-1000])
    elif kind == "foreign":
        save_file({"basis": torch.ones(3, 4), "row_space": torch.ones(3, 4)}, path, {"schema": "vitnull/basis/1"})
    elif kind == "watermark":
        stamp(photo, "--float", path, "--out", "before.png")
    request.getfixturevalue("no_weights")
    assert reason in stamp(photo, "--basis", path, expect=1).message
    assert not Path(OUTPUT).exists()


# Kinds of images: each gives what the same pixels give as an 8-bit RGB PNG


def grey(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    variant = image.convert("L")
    return variant, variant.convert("RGB"), {}


def deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    levels = np.asarray(image.convert("L"))
    return Image.fromarray(levels.astype(np.uint16) * 257), Image.fromarray(levels).convert("RGB"), {}


def palette(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    variant = image.quantize(16)
    return variant, variant.convert("RGB"), {}


def alpha(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    """Half of the picture transparent: white, whatever colours are hidden there."""
    variant, expected = image.convert("RGBA"), image.copy()
    width, height = image.size
    variant.paste((255, 0, 200, 0), (0, 0, width // 2, height))
    expected.paste((255, 255, 255), (0, 0, width // 2, height))
    return variant, expected, {}


def cmyk(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    variant = image.convert("CMYK")
    return variant, variant.convert("RGB"), {}


def turned(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    """Lying on its side, and saying so."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return image.transpose(Image.Transpose.ROTATE_90), image, {"exif": exif}


def animated(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    variant = image.quantize(16)
    frame = Image.new("P", image.size)
    return variant, variant.convert("RGB"), {"save_all": True, "append_images": [frame]}


def plain(image: Image.Image) -> tuple[Image.Image, Image.Image, dict[str, Any]]:
    return image, image, {}


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        ("png", grey),
        ("png", deep_grey),
        ("tif", deep_grey),
        ("png", palette),
        ("png", alpha),
        ("webp", alpha),
        ("tif", cmyk),
        ("png", turned),
        ("tif", turned),
        ("gif", animated),
        ("bmp", plain),
        ("tif", plain),
        ("webp", plain),
    ],
)
def test_kinds_of_images(
    stamp: Vitnull,
    photo: Path,
    suffix: str,
    make: Callable[[Image.Image], tuple[Image.Image, Image.Image, dict[str, Any]]],
) -> None:
    with Image.open(photo) as image:
        variant, expected, options = make(image.convert("RGB"))
    if suffix == "webp":
        options = {"lossless": True, "exact": True}
    variant.save(f"variant.{suffix}", **options)
    expected.save("expected.png")
    document = stamp(f"variant.{suffix}", "expected.png", "--reading", "shown").document
    first, second = document["images"]
    assert np.array_equal(pixels_of("variant.watermarked.png"), pixels_of("expected.watermarked.png"))
    assert first["size"] == second["size"]
    assert first["before"] == second["before"]
    assert first["size"][0] > first["size"][1]  # upright, the photo is wider than high
    with Image.open(f"variant.{suffix}") as image:
        image.convert("RGB").save("loaded.png")
    first, second = stamp(f"variant.{suffix}", "loaded.png", "--force").document["images"]
    assert (first["reading"], first["before"], first["size"]) == ("timm", second["before"], second["size"])


# A mark that was forgotten


def test_a_photo_in_the_place_of_the_mark(vitnull: Vitnull, photo: Path, logo: Path, tiny_vit: tuple[str, ...]) -> None:
    many = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(many).save("b.jpg", quality=95)
    run = ("--scale", "0.2", "--min-legibility", "0", "--nullspace", "resize", "--model", *tiny_vit, "--force")
    said = "b.jpg is taken for the mark, for it comes last, and it looks like a photo"
    assert said in vitnull("watermark", photo, "b.jpg", *run).message
    for marked in ((photo, "--mark", "b.jpg"), (photo, logo)):
        assert "taken for the mark" not in vitnull("watermark", *marked, *run).message
    records = vitnull("watermark", photo, "b.jpg", "--mark", logo, *run, "--json").document["images"]
    assert [record["source"] for record in records] == [str(photo), "b.jpg"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg", "a.jpg is the only one named; give at least one image and then the mark"),
        ("a.jpg there", "the last name is the mark's, and there is a folder"),
        ("a.jpg --mark b.png --text x", "either a picture or letters"),
    ],
)
def test_no_mark(vitnull: Vitnull, no_model: None, line: str, said: str) -> None:
    Path("there").mkdir()
    assert said in vitnull("watermark", *line.split(), expect=2).message
