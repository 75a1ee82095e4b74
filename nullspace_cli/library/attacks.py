"""Images that are one thing to people and another to the network."""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.adversarial.attack import Attack, AttackSolution
from nullspace_cli.engine.adversarial.report import measured
from nullspace_cli.engine.files.containers import Container, Encoded
from nullspace_cli.engine.files.pictures import Picture, encode_like, encode_turned, read_again
from nullspace_cli.engine.files.two_readings import READINGS, Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.watermark.input_constraint import Channels
from nullspace_cli.library.arguments import require_choice, require_model, require_number
from nullspace_cli.library.inputs import AnyImage, read_image
from nullspace_cli.library.outputs import save_picture


class AttackResult:
    """An image that looks like the target and is the source to the network.

    Attributes:
        pixels: uint8 [H, W, 3]; unbounded, a preview: the image clipped to [0, 1], which is another to the network.
        image: the solution before any rounding, floats [3, H, W]; unbounded, this is the result, and may leave [0, 1].
        verified: whether the network's class is the source's and its embeddings moved by no more than 1%, of the 8-bit
            image, or unbounded of `image`; None where neither could be measured.
    """

    def __init__(self, source: Picture, made: AttackSolution, record: dict[str, Any], *, native: bool) -> None:
        self._source, self._record, self._native = source, record, native
        self.pixels: NDArray[np.uint8] = made.pixels
        self.image: Float[Tensor, "3 H W"] = made.image
        self.verified: bool | None = record["verified"]

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write `pixels` as a .png, .webp or .tif, lossless.

        Raises:
            ArtifactError: the file cannot be written, is there already, or has another ending.
            ImageError: the format cannot hold the source's depth.
        """
        return save_picture(path, self._encoded, self.pixels, self._source.reading, overwrite=overwrite)

    def _encoded(self, container: Container) -> Encoded:
        if self._native:
            return encode_like(self._source, self.pixels, container)
        return encode_turned(self.pixels, self._source.turn, container)

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON of `vitnull fool`, but for those of its files."""
        return self._record

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"<AttackResult {width} x {height}, verified {self.verified}>"


def attack(
    model: Model,
    source: AnyImage,
    target: AnyImage,
    *,
    size: Literal["model", "native"] = "model",
    bounded: bool = True,
    p: Literal[1, 2] = 2,
    channels: Channels = "all",
    strength: float | None = None,
    reading: Reading = "timm",
) -> AttackResult:
    """Make an image that looks like `target` and is `source` to the network (paper, section 7 and A.3).

    Args:
        source, target: paths, PIL images, or uint8 [H, W, c].
        size: "native" keeps the source's own size and the model's 8-bit input to the last bit.
        bounded: whether the result is a valid 8-bit image, or floats that may leave [0, 1].
        p: minimised is ||z - target||_p.
        channels: "red" takes green and blue from the target as they are (A.3), unbounded.
        strength: multiplies the target's detail; None takes the best of a few.
        reading: how the network is given the source, as of `make_watermark`; the target is what people see.

    Raises:
        UsageError: settings exclude each other, or one makes no sense.
        ImageError: an image cannot be read, or is too small or too elongated.
        NoNullspaceError: the model has no nullspace of the kind that is needed.
    """
    require_model(model)
    require_choice("size", size, ("model", "native"))
    require_choice("channels", channels, get_args(Channels))
    require_choice("p", p, (1, 2))
    require_choice("reading", reading, READINGS)
    if strength is not None:
        require_number("strength", strength, least=0, most=100)
    maker = Attack(LazyModel.of(model), size, channels, bounded, p, strength, reading=reading)
    maker.prepare()
    seen, wanted = read_image(source, "source", reading), read_image(target, "target", "shown")
    made = maker(seen, wanted.pixels)
    report = measured(maker, made, seen, read_again(seen, made.pixels, native=size == "native"), ())
    return AttackResult(seen, made, report.record, native=size == "native")
