"""EXIF: which way is up."""

from PIL import ImageFile, ImageOps


def upright(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """Decode the image and turn it as its EXIF orientation says; metadata that cannot be parsed is dropped."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's, of metadata that may hold anything
        image.info.pop("exif", None)
    return image
