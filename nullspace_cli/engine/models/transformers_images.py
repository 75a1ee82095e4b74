"""transformers' image processors as timm's data configurations, where there is one that reads images alike."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.documents.transformers_folder import Extent, ImageProcessorConfig
from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.files.paths import exists

FILE = "preprocessor_config.json"
STANDARD, IMAGENET = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""timm's names for PIL's numbers."""
BYTE = 1 / 255


@dataclass(frozen=True)
class Processor:
    """The defaults of one of transformers' image processors.

    Attributes:
        size: height and width of the resized image; one number where only its shorter side is meant.
        crop: height and width of the crop, if there is one.
        square: whether one number for a size means both sides.
    """

    moments: tuple[tuple[float, ...], tuple[float, ...]]
    resample: int
    size: tuple[int, int] | int
    crop: tuple[int, int] | None = None
    square: bool = True


BIT = Processor(CLIP, 3, 224, (224, 224), square=False)
PROCESSORS = {
    "ViT": Processor(STANDARD, 2, (224, 224)),
    "DeiT": Processor(STANDARD, 3, (256, 256), (224, 224)),
    "Bit": BIT,
    "CLIP": BIT,
    "DINOv3ViT": Processor(IMAGENET, 2, (224, 224)),
}
SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def read_processor(folder: Path) -> ImageProcessorConfig | None:
    """The preprocessor_config.json of a folder; None where there is none.

    Raises:
        ModelError: it cannot be read, or one of its keys is not what it should be.
    """
    path = folder / FILE
    if not exists(path) and not path.is_symlink():  # a broken link is no absence
        return None
    return ImageProcessorConfig.read(
        read_json(path, "an image processor of transformers", ModelError), str(path), ModelError
    )


def data_config(processor: ImageProcessorConfig, kind: str, own_size: tuple[int, int], channels: int) -> dict[str, Any]:
    """timm's data configuration that reads images as the processor does.

    Two things stay timm's: a crop within an odd margin may lie a pixel further on, and Pillow resizes, to 8 bits, also
    where transformers would have torchvision do it.

    Args:
        kind: the processor's name where it does not say it itself.
        own_size: height and width of the images that a network takes whose images are not resized.
        channels: of the network.

    Raises:
        ModelError: timm's transform cannot read images like that.
    """
    defaults = _defaults(processor, kind)
    if processor.do_pad:
        raise _unlike("pads images (do_pad)")
    cropped = defaults.crop is not None if processor.do_center_crop is None else processor.do_center_crop
    crop = _crop(processor, defaults) if cropped else None
    if processor.do_resize is not False:
        shape, crop_pct, crop_mode = _geometry(_size(processor, defaults), crop)
    elif crop is None:
        shape, crop_pct, crop_mode = own_size, 1.0, "squash"  # the network takes no other, and these stay as they are
    else:
        raise _unlike("crops images that it has not resized (do_resize is false, and do_center_crop true)")
    mean, std = _moments(processor, defaults, channels)
    return {
        "input_size": (channels, *shape),
        "mean": mean,
        "std": std,
        "interpolation": FILTERS[defaults.resample if processor.resample is None else processor.resample],
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }


def _defaults(processor: ImageProcessorConfig, kind: str) -> Processor:
    name = processor.image_processor_type or processor.feature_extractor_type or kind
    for suffix in SUFFIXES:
        if name.endswith(suffix) and (found := PROCESSORS.get(name.removesuffix(suffix))):
            return found
    known = ", ".join(f"{known}ImageProcessor" for known in PROCESSORS)
    raise ModelError(f"its {FILE} names the processor {name!r}; expected one of {known}.")


def _size(processor: ImageProcessorConfig, defaults: Processor) -> tuple[int, int] | int:
    size = processor.size
    if size is None:
        return defaults.size
    if isinstance(size, int):
        return (size, size) if defaults.square else size
    if isinstance(size, list):
        return size[0], size[1]
    named = size.model_dump(exclude_none=True)
    if size.height is not None and size.width is not None and len(named) == 2:
        return size.height, size.width
    if size.shortest_edge is not None and len(named) == 1:
        return size.shortest_edge
    raise _unlike(f"resizes by {', '.join(named) or 'no size at all'}, and not by height and width or shortest_edge")


def _crop(processor: ImageProcessorConfig, defaults: Processor) -> tuple[int, int]:
    crop = processor.crop_size
    if crop is None and defaults.crop is not None:
        return defaults.crop
    if isinstance(crop, int):
        return crop, crop
    if isinstance(crop, list):
        return crop[0], crop[1]
    if isinstance(crop, Extent) and crop.height is not None and crop.width is not None:
        return crop.height, crop.width
    raise _unlike("crops images to no crop_size with height and width")


def _geometry(size: tuple[int, int] | int, crop: tuple[int, int] | None) -> tuple[tuple[int, int], float, str]:
    """Height and width of the network's input, and timm's crop_pct and crop_mode."""
    if isinstance(size, int):
        if crop is None:
            raise _unlike("keeps the proportions of every image and crops none (size is shortest_edge)")
        if crop[0] != crop[1]:
            raise _unlike(f"crops {crop[0]} x {crop[1]} from images that keep their proportions")
        return crop, _share(crop, (size, size)), "center"
    return (size, 1.0, "squash") if crop is None else (crop, _share(crop, size), "squash")


def _share(crop: tuple[int, int], size: tuple[int, int]) -> float:
    """The crop_pct by which timm resizes to `size` and takes `crop` of it."""
    if any(part > whole for part, whole in zip(crop, size, strict=True)):
        raise _unlike(f"crops {crop[0]} x {crop[1]} from images that it has made smaller than that")
    largest = min(part / whole for part, whole in zip(crop, size, strict=True))
    for share in (largest, math.nextafter(largest, 0)):
        if size == tuple(math.floor(part / share) for part in crop):
            return share
    raise _unlike(f"crops {crop[0]} x {crop[1]} from {size[0]} x {size[1]}, which are no one share of both sides")


def _moments(
    processor: ImageProcessorConfig, defaults: Processor, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in [0, 1], whatever units the processor gives them."""
    factor = 1.0 if processor.do_rescale is False else processor.rescale_factor or BYTE
    unit = 1.0 if factor == BYTE else factor / BYTE
    if processor.do_normalize is False:
        return (0.0,) * channels, (1 / unit,) * channels
    moments = []
    for name, default in zip(("image_mean", "image_std"), defaults.moments, strict=True):
        given = getattr(processor, name)
        if given is None:
            values = (default * channels)[:channels]  # as timm does for networks that read no RGB
        else:
            values = tuple(given) if isinstance(given, list) else (given,)
            values = values * channels if len(values) == 1 else values
        if len(values) != channels:
            raise ModelError(f"its {FILE} has {len(values)} numbers in {name}; its network has {channels} channels.")
        moments.append(tuple(value / unit for value in values))
    return moments[0], moments[1]


def _unlike(what: str) -> ModelError:
    return ModelError(f"its {FILE} {what}; timm's transform, by which vitnull reads images, does not.")
