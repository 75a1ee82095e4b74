"""`vitnull watermark` at native size: what is bit-identical, by plain timm; what is kept of a file; which nullspace."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import draw
from tests.cli.contract import WATERMARK, check_keys
from tests.cli.reference import Array, Reference, pixels_of, random_vit
from tests.conftest import Outcome, Vitnull, contents

LARGE = "large.watermarked.png"
PHOTO = "photo.watermarked.png"
UNFETCHABLE = "resnet18.a1_in1k"


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawing that is more than twice as large as the demo models' input."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(draw("val", 3, size=512)[0]).save(path)
    return path


@pytest.fixture
def stamp(vitnull: Vitnull, tiny_vit: tuple[str, ...], logo: Path) -> Vitnull:
    """`vitnull watermark IMAGE... logo.png --model <the tiny ViT> --json`, with further options."""

    def stamp(*arguments: str | Path, **options: Any) -> Outcome:
        return vitnull("watermark", *arguments, logo, "--model", *tiny_vit, "--json", **options)

    return stamp


@pytest.fixture
def through_resize(stamp: Vitnull) -> Vitnull:
    """As `stamp`, through the resize's nullspace."""

    def through_resize(*arguments: str | Path, **options: Any) -> Outcome:
        return stamp(*arguments, "--nullspace", "resize", **options)

    return through_resize


# What the watermark holds, measured without this package


@pytest.mark.parametrize("model", ["demo", "demo_cnn"])
def test_the_models_input_is_bit_identical(
    vitnull: Vitnull, no_weights: None, large: Path, logo: Path, model: str, request: pytest.FixtureRequest
) -> None:
    reference: Reference = request.getfixturevalue(model)
    document = vitnull("watermark", large, logo, "--model", *reference.arguments, "--json").document
    check_keys(document, WATERMARK)
    (record,) = document["images"]
    assert (record["output"], record["size"], record["nullspace"]) == (LARGE, [512, 512], "resize")
    assert (record["input_pixels_changed"], record["logit_mse"], record["confidence_change"]) == (0, 0, 0)
    assert record["match"] is record["verified"] is True
    inside = ("embedding_error", "feature_cosine", "feature_change")
    assert [record[name] for name in inside] == [None] * 3  # no model was run that could have been looked into
    assert (record["before"], record["after"], document["weights_sha256"]) == (None, None, None)
    assert document["summary"]["bit_identical"] == document["summary"]["matched"] == 1
    assert record["mark_correlation"] > 0.8

    before, after = pixels_of(large), pixels_of(LARGE)
    assert before.shape == after.shape
    assert np.abs(after.astype(int) - before).max() > 50
    assert torch.equal(reference.input(large), reference.input(LARGE))
    assert torch.equal(reference.logits(large), reference.logits(LARGE))


def test_verification_runs_the_model(vitnull: Vitnull, demo: Reference, large: Path, logo: Path) -> None:
    document = vitnull("watermark", large, logo, "--model", "demo", "--verify", "--json").document
    (record,) = document["images"]
    index, probability = demo.answer(large)
    assert (record["before"]["class"], record["match"], record["verified"]) == (index, True, True)
    assert record["before"]["probability"] == pytest.approx(probability, rel=1e-4)
    assert isinstance(document["weights_sha256"], str)


def test_a_text_as_the_mark(vitnull: Vitnull, no_weights: None, demo: Reference, large: Path) -> None:
    (record,) = vitnull("watermark", large, "--text", "Hi", "--model", "demo", "--json").document["images"]
    assert (record["nullspace"], record["input_pixels_changed"]) == ("resize", 0)
    assert torch.equal(demo.input(large), demo.input(LARGE))
    assert record["mark_correlation"] > 0.7


def test_the_patch_nullspace_keeps_the_embeddings(stamp: Vitnull, tiny: Reference, photo: Path) -> None:
    (record,) = stamp(photo, "--nullspace", "patch").document["images"]
    assert (record["nullspace"], record["size"], record["verified"]) == ("patch", [260, 230], True)
    before, after = tiny.embeddings(photo), tiny.embeddings(PHOTO)
    error = float((after - before).norm() / before.norm())
    assert error == pytest.approx(record["embedding_error"], rel=1e-4)
    assert error < 0.01
    assert not torch.equal(tiny.input(photo), tiny.input(PHOTO))
    assert record["input_pixels_changed"] > 0.1


# No weights are read where they are not needed


@pytest.mark.parametrize("name", [UNFETCHABLE, "vit_base_patch16_224"])
def test_weights_that_cannot_be_fetched_are_not_missed(vitnull: Vitnull, name: str, large: Path, logo: Path) -> None:
    document = vitnull("watermark", large, logo, "--model", name, "--json").document
    assert document["model"].startswith(name)
    assert document["weights_sha256"] is None
    assert document["summary"]["bit_identical"] == 1


@pytest.mark.parametrize("options", [["--verify"], ["--nullspace", "patch"], ["--size", "model"]], ids=" ".join)
def test_weights_that_are_missed(vitnull: Vitnull, large: Path, logo: Path, options: list[str]) -> None:
    outcome = vitnull("watermark", large, logo, "--model", UNFETCHABLE, *options, "--json", expect=1)
    assert f"The weights of {UNFETCHABLE} could not be fetched" in outcome.message
    assert "as --checkpoint" in outcome.message
    assert (outcome.stdout, contents()) == ("", [])


# Which nullspace


@pytest.fixture
def small() -> str:
    Image.fromarray(draw("val", 3, size=224)[0]).save("small.png")
    return "small.png"


def test_an_image_of_input_size_falls_back_to_the_patches(
    vitnull: Vitnull, demo: Reference, logo: Path, small: str
) -> None:
    (record,) = vitnull("watermark", small, logo, "--model", "demo", "--json").document["images"]
    assert (record["nullspace"], record["match"], record["verified"]) == ("patch", True, True)
    before, after = demo.embeddings(small), demo.embeddings("small.watermarked.png")
    assert (after - before).norm() < 0.01 * before.norm()


@pytest.mark.parametrize("options", [[], ["--nullspace", "resize"]], ids=["auto", "resize"])
def test_an_image_that_is_too_small(vitnull: Vitnull, logo: Path, small: str, options: list[str]) -> None:
    outcome = vitnull("watermark", small, logo, "--model", "demo-cnn", *options, expect=1)
    assert "small.png is too small for a watermark through the resize alone: 224 x 224 becomes 224 x 224" in (
        outcome.message
    )
    assert contents() == ["small.png"]


@pytest.mark.parametrize("files", [["small.png"], ["small.png", "other.png"]], ids=["one", "two"])
def test_a_model_without_a_patch_nullspace(vitnull: Vitnull, logo: Path, small: str, files: list[str]) -> None:
    Path("other.png").write_bytes(Path(small).read_bytes())
    outcome = vitnull("watermark", *files, logo, "--model", "demo-cnn", "--nullspace", "patch", expect=5)
    assert outcome.message.startswith("vitnull: error: demo-cnn has no exact patch nullspace")
    assert outcome.stderr.count("\n") == 1
    assert contents() == ["other.png", "small.png"]


@pytest.mark.parametrize("line", ["--norm 1", "--norm 1 --nullspace patch"])
def test_p_of_1_needs_model_size(stamp: Vitnull, no_weights: None, photo: Path, line: str) -> None:
    assert "--size model" in stamp(photo, *line.split(), expect=2).message
    assert contents() == []


def test_p_of_1_at_model_size(stamp: Vitnull, photo: Path) -> None:
    (record,) = stamp(photo, "--norm", "1", "--size", "model").document["images"]
    assert (record["solver"]["norm"], record["verified"]) == (1, True)
    assert record["size"] != [260, 230]


# How the mark is drawn


@pytest.mark.parametrize("treatment", ["hatch", "outline", "plain"])
def test_every_treatment(stamp: Vitnull, photo: Path, treatment: str) -> None:
    (record,) = stamp(photo, "--nullspace", "patch", "--treatment", treatment).document["images"]
    assert record["verified"]
    assert record["mark_correlation"] > 0.3


def test_the_default_treatment(stamp: Vitnull, photo: Path) -> None:
    """The hatch through the resize, the outline through the patches."""
    for nullspace, asked in (("resize", ("hatch", "1")), ("patch", ("outline", "2"))):
        options = ("--nullspace", nullspace, "--force", "-o")
        stamp(photo, *options, "default.png")
        stamp(photo, *options, "asked.png", "--treatment", asked[0], "--strength", asked[1])
        stamp(photo, *options, "other.png", "--treatment", asked[0], "--strength", "0.5")
        assert np.array_equal(pixels_of("default.png"), pixels_of("asked.png"))
        assert not np.array_equal(pixels_of("default.png"), pixels_of("other.png"))


def test_tiles_are_everywhere(through_resize: Vitnull, photo: Path) -> None:
    (record,) = through_resize(photo, "--fit", "tile").document["images"]
    assert record["input_pixels_changed"] == 0
    noise = np.abs(pixels_of(PHOTO).astype(int) - pixels_of(photo)).max(2)
    corners = [
        noise[rows, cols].max() for rows in (slice(80), slice(-80, None)) for cols in (slice(80), slice(-80, None))
    ]
    assert min(corners) > 30


@pytest.mark.parametrize("option", ["--strength", "--opacity"])
@pytest.mark.parametrize("nullspace", ["auto", "patch"])
def test_no_mark_changes_nothing(stamp: Vitnull, photo: Path, option: str, nullspace: str) -> None:
    (record,) = stamp(photo, option, "0", "--nullspace", nullspace, expect=3).document["images"]
    assert (record["psnr"], record["mark_correlation"], record["input_pixels_changed"]) == (None, None, 0)
    assert np.array_equal(pixels_of(PHOTO), pixels_of(photo))


def test_less_opacity_is_less_mark(through_resize: Vitnull, photo: Path) -> None:
    psnr = [
        through_resize(photo, "--opacity", opacity, "--min-legibility", "0", "--force").document["images"][0]["psnr"]
        for opacity in ("1", "0.5", "0.2")
    ]
    assert psnr == sorted(psnr)


@pytest.mark.parametrize("text", ["", "  ", "\\n"])
def test_a_blank_text(vitnull: Vitnull, no_weights: None, photo: Path, text: str) -> None:
    outcome = vitnull("watermark", photo, "--text", text, "--model", "demo", expect=2)
    assert "blank" in outcome.message
    assert contents() == []


def test_a_text_that_the_font_lacks(vitnull: Vitnull, no_weights: None, photo: Path) -> None:
    outcome = vitnull("watermark", photo, "--text", "印", "--model", "demo", expect=2)
    assert "glyph for 印 (U+5370). Use --font FILE" in outcome.message


@pytest.mark.parametrize("ground", ["white", "black"])
def test_a_mark_that_nobody_can_see(vitnull: Vitnull, no_weights: None, ground: str) -> None:
    """There is no room for one; the model's input is the same for all that."""
    Image.new("RGB", (500, 400), ground).save("plain.png")
    stamp = ("watermark", "plain.png", "--text", "mine", "--model", "demo", "--json", "--force")
    outcome = vitnull(*stamp, expect=3)
    (record,) = outcome.document["images"]
    assert (record["legibility"], record["verified"]) == ({"full": 0, "half": 0}, True)
    assert "plain.watermarked.png: the mark cannot be seen" in outcome.message
    assert vitnull(*stamp, "--min-legibility", "0").stderr == ""


def test_a_text_of_each_image(vitnull: Vitnull, no_weights: None, photo: Path) -> None:
    """One of them does not say when it was taken; the other is marked as with the text itself."""
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2021:01:02 03:04:05"
    with Image.open(photo) as image:
        image.save("a.png", exif=exif)
        image.save("b.png")
    stamp = ("watermark", "--nullspace", "resize", "--model", "demo", "--position", "bottom-right", "--json")
    options = ("--min-legibility", "0")
    outcome = vitnull(*stamp, "a.png", "b.png", "--text", "{stem} {year}", *options, expect=4)
    (record,) = outcome.document["images"]
    assert (record["source"], record["text"]) == ("a.png", "a 2021")
    assert "b.png says nothing of its year" in outcome.message
    vitnull(*stamp, "a.png", "--text", "a 2021", "-o", "same.png", *options)
    assert Path("same.png").read_bytes() == Path("a.watermarked.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--text", "{date}"), "There are {stem}"),
        (("--text", "a", "--font", "missing.ttf"), "Cannot read the font missing.ttf: it is missing"),
        (("logo.png", "--font", "a.ttf"), "letters nothing without --text"),
    ],
)
def test_texts_and_fonts_that_make_no_sense(
    vitnull: Vitnull, no_weights: None, photo: Path, options: tuple[str, ...], reason: str
) -> None:
    code = 1 if "missing.ttf" in options else 2
    assert reason in vitnull("watermark", photo, *options, "--model", "demo", expect=code).message
    assert contents() == []


# Kinds of files: what is kept, and that the input stays


def on_white(image: Image.Image) -> Image.Image:
    """What a model is shown, by Pillow alone."""
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if "A" in image.mode:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def assert_same_input(model: Reference, before: Image.Image, path: str, share: float = 0) -> None:
    on_white(before).save("seen before.png")
    with Image.open(path) as after:
        on_white(after).save("seen after.png")
    seen = [(model.visible(f"seen {when}.png") * 255).round() for when in ("before", "after")]
    assert np.mean(seen[0] != seen[1]) <= share


def graded(size: tuple[int, int]) -> Image.Image:
    """Alpha from clear to opaque."""
    return Image.linear_gradient("L").resize(size)


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def deep_grey(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def grey_alpha(image: Image.Image) -> Image.Image:
    made = image.convert("LA")
    made.putalpha(graded(image.size))
    return made


def colour_alpha(image: Image.Image) -> Image.Image:
    made = image.convert("RGBA")
    made.putalpha(graded(image.size))
    return made


@pytest.mark.parametrize("make", [grey, deep_grey, grey_alpha, colour_alpha])
def test_size_mode_and_alpha_are_kept(
    through_resize: Vitnull, tiny: Reference, photo: Path, make: Callable[[Image.Image], Image.Image]
) -> None:
    with Image.open(photo) as image:
        source = make(image.convert("RGB"))
    source.save("kind.png")
    (record,) = through_resize("kind.png", "--reading", "shown").document["images"]
    with Image.open("kind.watermarked.png") as result:
        assert (result.format, result.mode, result.size) == ("PNG", source.mode, source.size)
        if "A" in source.mode:
            assert result.getchannel("A").tobytes() == source.getchannel("A").tobytes()
    assert record["size"] == list(source.size)
    assert record["input_pixels_changed_shown"] <= 0.001
    assert_same_input(tiny, source, "kind.watermarked.png", record["input_pixels_changed_shown"])
    assert record["mark_correlation"] > 0.5


def test_glass_is_not_marked(through_resize: Vitnull, photo: Path) -> None:
    """As loaders read it, no colour of it may change: which is said, and what to do."""
    with Image.open(photo) as image:
        glass = image.convert("RGBA")
    glass.putalpha(200)
    glass.save("kind.png")
    message = through_resize("kind.png", expect=1).message
    assert "kind.png has no opaque pixel" in message
    assert "--reading shown" in message
    assert not Path("kind.watermarked.png").exists()


def test_a_grey_image_through_the_patches(stamp: Vitnull, photo: Path) -> None:
    with Image.open(photo) as image:
        image.convert("L").save("kind.png")
    (record,) = stamp("kind.png", "--nullspace", "patch").document["images"]
    assert (record["nullspace"], record["verified"]) == ("patch", True)
    with Image.open("kind.watermarked.png") as result:
        assert result.mode == "L"


def test_a_palette_becomes_its_colours(through_resize: Vitnull, tiny: Reference, photo: Path) -> None:
    with Image.open(photo) as image:
        source = image.convert("RGB").quantize(16)
    source.save("kind.png")
    outcome = through_resize("kind.png")
    (record,) = outcome.document["images"]
    assert pixels_of("kind.watermarked.png").shape == (230, 260, 3)
    assert_same_input(tiny, source, "kind.watermarked.png", record["input_pixels_changed"])


def test_a_turned_image_stays_as_it_is_stored(through_resize: Vitnull, tiny: Reference, photo: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(photo) as upright:
        stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save("kind.png", exif=exif)
    (record,) = through_resize("kind.png").document["images"]
    assert record["size"] == [230, 260]
    assert_same_input(tiny, stored, "kind.watermarked.png")
    with Image.open("kind.watermarked.png") as result:
        assert result.size == (230, 260)
        assert result.getexif()[ExifTags.Base.Orientation] == 6


def test_what_a_png_cannot_hold_is_said(through_resize: Vitnull, tiny: Reference, photo: Path) -> None:
    with Image.open(photo) as image:
        source = image.convert("CMYK")
    source.save("kind.tif")
    outcome = through_resize("kind.tif")
    assert outcome.stderr.startswith("vitnull: warning: kind.watermarked.png is 8-bit RGB, not CMYK")
    assert outcome.stderr.count("\n") == 1
    assert_same_input(tiny, source, "kind.watermarked.png", outcome.document["images"][0]["input_pixels_changed"])


def test_the_files_beside_it(through_resize: Vitnull, photo: Path) -> None:
    (record,) = through_resize(photo, "--diff", "diff.png", "--float", "exact.safetensors").document["images"]
    assert (record["diff"], record["float"]) == ("diff.png", "exact.safetensors")
    image, source, target = (load_file("exact.safetensors")[name].numpy() for name in ("image", "source", "target"))
    assert image.shape == source.shape == target.shape == (3, 230, 260)
    assert np.array_equal(np.rint(source * 255).transpose(1, 2, 0), pixels_of(photo))
    noise = pixels_of(PHOTO).astype(float) - pixels_of(photo)
    shown: Array = pixels_of("diff.png").astype(float)
    assert np.abs(128 + record["diff_gain"] * noise - shown).max() <= 0.5


def test_the_same_bytes_on_two_runs(through_resize: Vitnull, photo: Path) -> None:
    through_resize(photo, "-o", "a.png")
    through_resize(photo, "-o", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_the_human_result(
    vitnull: Vitnull, no_weights: None, tiny_vit: tuple[str, ...], photo: Path, logo: Path
) -> None:
    outcome = vitnull("watermark", photo, logo, "--nullspace", "resize", "--model", *tiny_vit)
    assert outcome.stderr == ""
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in outcome.stdout.splitlines())
    assert rows["image"].endswith("(260 x 230)")
    assert rows["model"].endswith("(no weights read)")
    assert (rows["nullspace"], rows["model input"]) == ("resize", "bit-identical")
    assert rows["mark"].startswith("correlation 0.")


# Formats


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".tiff", ".WEBP"])
@pytest.mark.parametrize("size", ["native", "model"])
def test_the_endings_that_keep_every_pixel(
    vitnull: Vitnull, large: Path, logo: Path, tiny_vit: tuple[str, ...], ending: str, size: str
) -> None:
    """The model reads the same of each: what other programs decode is what the PNG holds."""
    seen = []
    for name in (f"out{ending}", "reference.png"):
        arguments = ("--model", *tiny_vit, "--size", size, "--strength", "1", "-o", name, "--no-verify", "--json")
        vitnull("watermark", large, logo, *arguments)
        with Image.open(name) as image:
            seen.append(np.asarray(image.convert("RGB")))
            assert image.format == {".png": "PNG", ".webp": "WEBP"}.get(Path(name).suffix.lower(), "TIFF")
    np.testing.assert_array_equal(seen[0], seen[1])


def test_depth_that_a_format_lacks(vitnull: Vitnull, logo: Path, no_weights: None) -> None:
    deep = np.add.outer(np.arange(640), np.arange(640)).astype(np.uint16) * 50
    Image.fromarray(deep).save("deep.png")
    outcome = vitnull("watermark", "deep.png", logo, "-o", "out.webp", expect=1)
    assert (
        "Cannot write out.webp: WebP has 8 bits a sample, and the source has 16. Use .png or .tif." in outcome.message
    )
    assert contents() == ["deep.png"]
    vitnull("watermark", "deep.png", logo, "-o", "out.tif", "--nullspace", "resize")
    with Image.open("out.tif") as image:
        assert image.mode == "I;16"


def test_a_photo_says_whose_it_is_in_its_watermark(vitnull: Vitnull, large: Path, logo: Path, no_weights: None) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "(c) mine"
    with Image.open(large) as image:
        image.convert("RGB").save("photo.jpg", exif=exif, quality=95, comment="by me")
    outcome = vitnull("watermark", "photo.jpg", logo, "-o", "out.png")
    assert outcome.stderr == ""
    with Image.open("out.png") as image:
        assert (image.getexif()[ExifTags.Base.Copyright], image.info["Comment"]) == ("(c) mine", "by me")


def test_a_profile_that_a_png_cannot_hold_is_left_out_by_name(
    vitnull: Vitnull, large: Path, logo: Path, no_weights: None
) -> None:
    profile = bytes(16) + b"RGB " + bytes(2**21)
    with Image.open(large) as image:
        image.convert("RGB").save("photo.tif", icc_profile=profile)
    outcome = vitnull("watermark", "photo.tif", logo, "-o", "out.png")
    assert "out.png goes without what photo.tif has: its colour profile of 2097172 bytes" in outcome.message
    Image.open("out.png").load()
    assert vitnull("watermark", "photo.tif", logo, "-o", "out.webp").stderr == ""
    with Image.open("out.webp") as image:
        assert image.info["icc_profile"] == profile


# JPEGs


def levels_of(path: Path | str) -> Array:
    """The tiny ViT's 8-bit input, by timm's own transform."""
    return np.rint(255 * random_vit(()).visible(path)).astype(np.int16)


@pytest.fixture
def jpeg(large: Path) -> Path:
    with Image.open(large) as image:
        pixels = (64 + np.asarray(image.convert("RGB")) * 0.5).astype(np.uint8)
    Image.fromarray(pixels).save("photo.jpg", quality=90, comment="by me")
    Image.fromarray(pixels).save("other.png")
    return Path("photo.jpg")


def test_a_jpeg_stays_a_jpeg(vitnull: Vitnull, jpeg: Path, logo: Path, tiny_vit: tuple[str, ...]) -> None:
    arguments: list[str | Path] = [jpeg, "other.png", logo, "--model", *tiny_vit, "--scale", "0.4", "--json"]
    document = vitnull("watermark", *arguments, "--format", "same").document
    check_keys(document, WATERMARK)
    first, second = document["images"]
    assert [first["output"], second["output"]] == ["photo.watermarked.jpg", "other.watermarked.png"]
    inputs = [levels_of(path) for path in (jpeg, first["output"])]
    assert first["input_pixels_changed"] == pytest.approx(float((inputs[0] != inputs[1]).mean()), abs=1e-12)
    assert first["input_pixels_changed"] < 0.001
    assert first["input_max_change"] == np.abs(inputs[0] - inputs[1]).max() <= 2
    assert first["compared_with"] == "source"
    assert first["file_size_ratio"] == Path(first["output"]).stat().st_size / jpeg.stat().st_size
    assert 0 < first["blocks_changed"] < 0.5
    assert first["mark_correlation"] > 0.6
    assert (second["file_size_ratio"], second["input_max_change"]) == (None, 0)
    with Image.open(first["output"]) as image:
        assert (image.format, image.info["comment"]) == ("JPEG", b"by me")


def test_another_picture_as_a_jpeg(vitnull: Vitnull, jpeg: Path, logo: Path, tiny_vit: tuple[str, ...]) -> None:
    arguments: list[str | Path] = [
        "other.png",
        logo,
        "--model",
        *tiny_vit,
        "--scale",
        "0.3",
        "-o",
        "out.jpg",
        "--quality",
        "97",
    ]
    outcome = vitnull("watermark", *arguments)
    assert "its plain JPEG, which it is compared with" in outcome.stdout
    Image.open("other.png").save("plain.jpg", quality=97, subsampling=0)
    plain, result = (levels_of(name) for name in ("plain.jpg", "out.jpg"))
    assert (plain != result).mean() < 0.001
    with Image.open("plain.jpg") as expected, Image.open("out.jpg") as image:
        assert image.quantization == expected.quantization  # type: ignore[attr-defined]


def test_a_transparent_picture_is_no_jpeg(vitnull: Vitnull, logo: Path, large: Path, no_weights: None) -> None:
    with Image.open(large) as image:
        image.putalpha(128)
        image.save("a.png")
    outcome = vitnull("watermark", "a.png", logo, "-o", "out.jpg", expect=1)
    assert "Cannot write out.jpg: a JPEG has no transparency, and the source has. Use .png" in outcome.message
    assert contents() == ["a.png"]
