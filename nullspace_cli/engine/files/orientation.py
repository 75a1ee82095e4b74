"""EXIF: which way is up."""

from typing import TypeVar

from PIL import Image, ImageOps

AnyImage = TypeVar("AnyImage", bound=Image.Image)


def upright(image: AnyImage) -> AnyImage:
    """Decode the image and turn it as its EXIF orientation says; metadata that cannot be parsed is dropped."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's, of metadata that may hold anything
        image.info.pop("exif", None)
    return image
