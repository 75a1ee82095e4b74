"""Further readers of a watermarked picture: who they are for its size, and what of their input differs in the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nullspace_cli.engine.comparison.input_change import change_between, inputs_of, keyed
from nullspace_cli.engine.files.pictures import Picture
from nullspace_cli.engine.models.common_readers import LEAST_RATIO, as_tensor_readers, common_readers
from nullspace_cli.engine.models.named_readers import parse_reader
from nullspace_cli.engine.transforms.eval_transform import EvalTransform
from nullspace_cli.engine.transforms.readers import Reader

COMMON = "common"
"""Stands for the readers that most pretrained models have."""


class ForOneSize(NamedTuple):
    """The further readers of one size of picture.

    Attributes:
        held: those whose input is to stay.
        measured: those and their counterparts that resize tensors, whose kernels are the same.
        notice: what is to be said of the choice, if anything.
    """

    held: tuple[Reader, ...] = ()
    measured: tuple[Reader, ...] = ()
    notice: str | None = None


@dataclass(frozen=True)
class FurtherReaders:
    """Whom else a watermark is for, besides the model.

    Attributes:
        given: readers by name.
        common: whether those are meant, too, that timm's pretrained models have in common.
    """

    given: tuple[Reader, ...] = ()
    common: bool = False

    @classmethod
    def parse(cls, texts: Sequence[str], *, offline: bool = False) -> "FurtherReaders":
        """From their names, and "common".

        Raises:
            UsageError: a text is of no known form.
            ModelError: there is no model of that name.
        """
        given = {reader.name: reader for reader in (parse_reader(t, offline=offline) for t in texts if t != COMMON)}
        return cls(tuple(given.values()), COMMON in texts)

    def __bool__(self) -> bool:
        return self.common or bool(self.given)

    def of(self, width: int, height: int, own: EvalTransform) -> ForOneSize:
        """Those for one size of picture, without the model's own, which is kept to the last bit anyway."""
        held = {reader.name: reader for reader in self.given}
        measured, notice = dict(held), None
        if self.common:
            found = common_readers(width, height)
            for reader in (*found.readers, *as_tensor_readers(found.readers)):
                measured.setdefault(reader.name, reader)
            for reader in found.readers:
                held.setdefault(reader.name, reader)
            notice = (
                f"common: {len(found.readers)} readers for {width} x {height} pixels, of {found.covered} of timm's "
                f"{found.tags} pretrained models; {found.tags - found.servable} read such a picture at more than 1 / "
                f"{LEAST_RATIO:g} of its width or height, which leaves no room for a mark"
            )
        mine = _resize_of(own)
        return ForOneSize(
            tuple(reader for reader in held.values() if reader.tensor_resize or _resize_of(reader.transform) != mine),
            tuple(measured.values()),
            notice,
        )


def _resize_of(transform: EvalTransform) -> tuple[Any, ...]:
    return (transform.input_size, transform.interpolation, transform.crop_pct, transform.crop_mode)


def changes(readers: Sequence[Reader], source: Picture, result: Picture) -> list[dict[str, Any]]:
    """What of each reader's 8-bit input differs, by the pictures' own reading: the records of JSON documents."""
    return [
        {"reader": reader.name, **keyed(change_between(*inputs_of(reader.input_pixels, source, result)))}
        for reader in readers
    ]
