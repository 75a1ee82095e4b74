"""What people read pictures with: timm's pretrained configurations, counted, and remembered from run to run."""

from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from typing import NamedTuple

from nullspace_cli.engine.documents.base import Count, Document
from nullspace_cli.engine.documents.shared import DataConfig
from nullspace_cli.engine.errors import ImageError, ModelError
from nullspace_cli.engine.models.data_config import transform_of
from nullspace_cli.engine.models.timm_names import is_timms_own
from nullspace_cli.engine.models.user_cache import keep, recalled, versions
from nullspace_cli.engine.text import shortest
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.readers import TENSOR_FILTERS, Reader

COMMON_SHARE = 0.9
"""Share of the tags that a picture can serve, which the readers chosen for it cover."""

LEAST_RATIO = 2.0
"""Source pixels per resized pixel, down and across, from which on a reader can be served: below, it sees the finest
line that there is, of one pixel in two."""

FILE = "readers.json"


class CountedTags(Document):
    """How many of timm's tags read pictures so."""

    data_config: DataConfig
    tags: Count


class KnownReaders(Document):
    """The file: all ways to read pictures that timm's tags have, and what `versions` they are of."""

    versions: list[str]
    readers: list[CountedTags]


class Common(NamedTuple):
    """The readers to be served for one size of picture.

    Attributes:
        readers: the fewest that cover COMMON_SHARE of the tags that such a picture can serve, the most used first.
        covered: tags whose transform is one of theirs.
        servable: tags that the picture can serve.
        tags: all there are.
    """

    readers: tuple[Reader, ...]
    covered: int
    servable: int
    tags: int


def common_readers(width: int, height: int) -> Common:
    """Those for a picture of this size. Each tag has one transform, so that the fewest are the most used ones."""
    counted = tags_by_transform()
    servable = [(transform, tags) for transform, tags in counted if _is_servable(transform, width, height)]
    total, covered, chosen = sum(tags for _, tags in servable), 0, []
    for transform, tags in servable:
        if covered >= COMMON_SHARE * total:
            break
        chosen.append(Reader(_name(transform), transform))
        covered += tags
    return Common(tuple(chosen), covered, total, sum(tags for _, tags in counted))


def as_tensor_readers(readers: tuple[Reader, ...]) -> tuple[Reader, ...]:
    """The same readers with torchvision's resize of tensors, with antialias, as far as it has their filters."""
    twins = []
    for reader in readers:
        name = f"torch-{reader.transform.interpolation}"
        if reader.tensor_resize is None and name in TENSOR_FILTERS:
            twins.append(Reader(_name(reader.transform, name), reader.transform, TENSOR_FILTERS[name][1]))
    return tuple(twins)


@cache
def tags_by_transform() -> tuple[tuple[EvalTransform, int], ...]:
    """The resizes and crops of timm's pretrained tags, and how many have each; the most used first.

    How they normalise is no part of it. Tags that read no pictures are left out.
    """
    installed, known = versions(), recalled(FILE, KnownReaders)
    if known and known.versions == installed:
        return tuple((transform_of(one.data_config.model_dump(), "a reader"), one.tags) for one in known.readers)
    counted = _counted()
    if installed:
        readers = [{"data_config": asdict(transform), "tags": tags} for transform, tags in counted]
        keep(FILE, KnownReaders, {"versions": installed, "readers": readers})
    return counted


def _counted() -> tuple[tuple[EvalTransform, int], ...]:
    import timm
    from timm.data import resolve_data_config

    counts: Counter[EvalTransform] = Counter()
    for name in filter(is_timms_own, timm.list_models(pretrained=True)):
        config = timm.get_pretrained_cfg(name)
        try:
            transform = transform_of(resolve_data_config(pretrained_cfg=config.to_dict()), name)
            transform.require_pictures()
        except ModelError:
            continue
        channels = transform.input_size[0]
        counts[replace(transform, mean=(0.0,) * channels, std=(1.0,) * channels)] += 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], _name(item[0]))))


def _is_servable(transform: EvalTransform, width: int, height: int) -> bool:
    try:
        resized = transform.geometry(width, height).resized
    except ImageError:
        return False
    return width >= LEAST_RATIO * resized[0] and height >= LEAST_RATIO * resized[1]


def _name(transform: EvalTransform, interpolation: str | None = None) -> str:
    """As readers are spelled out, where they can be."""
    height, width = transform.input_size[1:]
    size = f"{height}" if height == width else f"{height}x{width}"
    crop = {"center": shortest(transform.crop_pct), "squash": "squash"}.get(transform.crop_mode)
    if crop is None or (crop == "squash" and transform.crop_pct != 1):
        crop = f"{shortest(transform.crop_pct)} {transform.crop_mode}"
    return f"{size}/{interpolation or transform.interpolation}/{crop}"
