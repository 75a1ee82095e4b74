"""Broken pictures: each is read, or refused by name in one line; and no bug of ours is taken for damage."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files import pictures as images
from nullspace_cli.engine.files.metadata import Metadata
from nullspace_cli.engine.files.pictures import check_picture, encode_like, read_picture
from tests.engine.files.broken_pictures import broken, pngs, sound

READERS = pytest.mark.parametrize("read", [read_picture, check_picture])


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    for name, data in sound().items():
        (tmp_path / name).write_bytes(data)
        check_picture(tmp_path / name)
        assert read_picture(tmp_path / name).pixels.shape == (24, 24, 3), name


def test_what_is_broken_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    count = {"read": 0, "refused": 0}
    for name, data in broken():
        path = tmp_path / name
        path.write_bytes(data)
        for read in (check_picture, read_picture, partial(read_picture, reading="shown")):
            try:
                picture = read(path)
                if isinstance(picture, images.Picture):
                    assert picture.pixels.dtype == picture.levels.dtype == np.uint8
            except ImageError as error:
                message = str(error)
                assert message.startswith(f"Cannot read {path}: ")
                assert "\n" not in message
                count["refused"] += 1
                continue
            count["read"] += 1
            if isinstance(picture, images.Picture):  # as good as any other
                assert min(picture.pixels.shape[:2]) >= 1
                again = tmp_path / "again.png"
                again.write_bytes(encode_like(picture, picture.levels).data)
                np.testing.assert_array_equal(read_picture(again, picture.reading).levels, picture.levels)
        path.unlink()
    assert min(count.values()) > 300  # both ends were met


@pytest.mark.parametrize(
    "name",
    ["made-no-palette.png", "made-late-palette.png", "made-no-palette-two-bits.png"],
)
def test_a_palette_that_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(dict(pngs())[name])
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_picture(tmp_path / name)


@READERS
def test_names_that_no_file_can_have(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "folder.png").mkdir()
    for name, why in (
        ("circle.png", "Too many levels of symbolic links"),
        ("n" * 300 + ".png", "File name too long"),
        ("a\0b.png", "no file can have this name"),
        ("\ud800.png", "no file can have this name"),
        ("folder.png", "it is a folder, not a regular file"),
        ("folder.png/missing.png", "there is no such file"),
    ):
        with pytest.raises(ImageError, match=why):
            read(tmp_path / name)
    with pytest.raises(ImageError, match="it is a device"):
        read(Path("/dev/zero"))


# What is not the file's fault


@pytest.mark.parametrize("error", [TypeError, KeyError, ValueError, ZeroDivisionError, OSError, AttributeError])
@pytest.mark.parametrize("step", ["samples_of", "seen_of", "reduction"])
def test_a_bug_of_ours_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[Exception]
) -> None:
    def broken_step(*arguments: object, **options: object) -> None:
        raise error("a bug")

    path = tmp_path / "a.png"
    path.write_bytes(sound()["rgba.png"])
    monkeypatch.setattr(images, step, broken_step)
    picture = read_picture(path, "shown")
    with pytest.raises(error, match="a bug"):
        _ = picture.pixels, picture.metadata, picture.reduced


@pytest.mark.parametrize("step", [(ImageFile.ImageFile, "load"), (images, "decode")], ids=["decoding", "ours"])
def test_a_lack_of_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str]
) -> None:
    def starved(*arguments: object) -> None:
        raise MemoryError

    path = tmp_path / "a.tif"
    path.write_bytes(sound()["rgb.tif"])
    monkeypatch.setattr(*step, starved)
    with pytest.raises(ImageError, match=r"a\.tif: it does not fit into the memory that is left"):
        read_picture(path)


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "a.png"
    path.write_bytes(sound()["rgb.png"])
    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(ImageError, match=r"a\.png: Input/output error\. Check the disk"):
        read_picture(path)


@pytest.mark.parametrize(
    "info",
    [
        {"dpi": (1,)},
        {"dpi": ("a", "b")},
        {"dpi": None},
        {"dpi": 7},
        {"dpi": (1, 2, 3)},
        {"exif": "text"},
        {"icc_profile": "text"},
        {"icc_profile": (1, 2)},
    ],
)
def test_metadata_of_another_type_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, object]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sound()["grey.png"])
    real = Image.open

    def opened(*arguments: object, **options: object) -> object:
        image = real(*arguments, **options)  # type: ignore[arg-type]
        image.info.update(info)
        return image

    monkeypatch.setattr(Image, "open", opened)
    picture = read_picture(path)
    assert picture.metadata == Metadata(lost=picture.metadata.lost)
