"""Watermarks on JPEGs that stay JPEGs: luma coefficients under the mark change, everything else is the source's own.

Red, green and blue move alike with the luma, so that one plane must keep the view of all three. The mark is therefore
grey, and where one of the channels is about to be clipped there is no room for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.jpeg_decoding import LumaDecoder
from nullspace_cli.engine.files.jpeg_pictures import JpegPicture, decoded
from nullspace_cli.engine.preimage.block_views import DCT, SIDE, BlockView
from nullspace_cli.engine.preimage.luma_descent import LumaDescent
from nullspace_cli.engine.preimage.pillow_passes import Passes
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.solvers.resize_projection import (
    DualPoint,
    ResizeProblem,
    SeparableResize,
    WholeView,
    project_onto_view,
)
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, in_grey
from nullspace_cli.engine.transforms.resize_operator import ResizeOperator
from nullspace_cli.engine.watermark.design import Aim, drawn_on_grey, own_design
from nullspace_cli.engine.watermark.mark_style import Period, wave_period, wave_phase
from nullspace_cli.engine.watermark.native_size import VISIBLE
from nullspace_cli.engine.watermark.result import Jpeg, Rounding, Unrounded, Watermarked, attained

Plane = UInt8[NDArray[np.uint8], "H W"]

CELL = 0.3
"""Levels off the view at which the projection is content; the roundings need the rest of the cell."""

BLENDS = 1
"""How often the target is halved where no picture with that view lies near it."""

NOISE = 1.2
"""Head-room below 0 and 255, in standard deviations of what rounding all coefficients does to a pixel."""

CRAMPED = 0.25
"""Share of a block's pixels without head-room from which on it is left as it is."""

FAINT = 1.5
"""Steps below which a coefficient that the source goes without is not made: most bytes of a mark would be for such."""


@dataclass(eq=False)
class JpegSize:
    """Makes watermarks of JPEGs, at their own size.

    Attributes:
        least: share of the wanted change below which the result is refused.
    """

    transform: EvalTransform
    design: Aim | None
    rounding: Rounding = "aware"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    least: float = VISIBLE

    @full_precision
    def __call__(self, jpeg: JpegPicture, design: Aim | None = None) -> Watermarked:
        """Watermark a JPEG.

        Args:
            design: in place of the maker's.

        Raises:
            ImageError: it is too small for the mark to be seen, or too elongated to be resized.
        """
        result = _Task(self, jpeg, own_design(design, self.design)).result()
        if (reached := attained(result)) < self.least:
            width, height = self.transform.geometry(jpeg.picture.width, jpeg.picture.height).resized
            raise ImageError(
                f"{jpeg.picture.path} leaves no room for a watermark in its JPEG: of {jpeg.picture.width} x "
                f"{jpeg.picture.height}, which becomes {width} x {height}, only {reached:.0%} of the mark would be "
                f"left. Use a larger image, or write .png, where the patch embedding's nullspace may serve."
            )
        return result


@dataclass(frozen=True, eq=False)
class _Task:
    maker: JpegSize
    jpeg: JpegPicture
    design: Aim

    @cached_property
    def view(self) -> ResizeOperator:
        return ResizeOperator(self.maker.transform, self.jpeg.picture.width, self.jpeg.picture.height)

    @cached_property
    def grid(self) -> tuple[int, int]:
        n, m = self.jpeg.luma.coefficients.shape[:2]
        return n, m

    @cached_property
    def decoder(self) -> LumaDecoder:
        offsets = self.jpeg.offsets
        return LumaDecoder(
            self.jpeg.luma.table,
            None if offsets is None else np.ascontiguousarray(self._blocks(offsets).transpose(1, 2, 0, 3, 4)),
            in_grey=self.maker.transform.input_size[0] == 1,
        )

    @cached_property
    def readers(self) -> Sequence[BlockView]:
        """Whose views are to stay; the first one's the projection keeps, too."""
        picture, passes = self.jpeg.picture, Passes(self.view)
        grey = self.maker.transform.input_size[0] == 1
        levels = in_grey(picture.pixels) if grey else picture.pixels[..., : 1 if picture.grey else 3]
        by_rows = levels.transpose(1, 2, 0) if passes.transposed else levels.swapaxes(1, 2)
        turn = picture.orientation if picture.reading == "shown" else type(picture.orientation)()
        reader = BlockView(passes, passes(np.ascontiguousarray(by_rows)), self.grid, turn)
        reader.see(self.decoder(self.jpeg.luma.coefficients))
        return [reader]

    def result(self) -> Watermarked:
        wish, luma = self._wish(), self.jpeg.brightness
        target = wish.clip(*self._bounds)
        free = self._blocks(target != luma).any((2, 3)) & ~self._cramped
        target = np.where(self._within(free), target, luma)
        problem, point = self._projected(target, free)
        real = torch.cat([z for _, _, z in problem.images(point.y)]).cpu().numpy().astype(np.float64)
        change = DCT @ self._blocks(real - luma) @ DCT.T
        own = self.jpeg.luma.coefficients
        wanted = own.astype(np.float64) + np.where(free[..., None, None], change / self.jpeg.luma.table, 0)
        wanted = np.where((own == 0) & (np.abs(wanted) < FAINT), 0, wanted)
        descent = LumaDescent(self.decoder, self.readers, own, wanted, free)
        found = descent() if self.maker.rounding == "aware" else descent.coefficients
        data = self.jpeg.written(found)
        gave_way = float((problem.target.cpu().numpy()[:, 0] != wish).mean())
        certificate = {**problem.certificate(point, tolerance=CELL).figures(2), "gave_way": gave_way}
        return self._watermarked(data, wish, real, certificate, float((found != own).any((2, 3)).mean()))

    def _watermarked(
        self, data: bytes, target: Plane, real: NDArray[np.float64], certificate: dict[str, Any], changed: float
    ) -> Watermarked:
        picture = self.jpeg.picture

        def as_read(stored: NDArray[Any]) -> NDArray[Any]:
            return picture.orientation.upright(stored) if picture.reading == "shown" else stored

        def coloured(plane: NDArray[Any]) -> NDArray[Any]:
            offsets = np.zeros((3, 1, 1)) if self.jpeg.offsets is None else self.jpeg.offsets
            return as_read(np.moveaxis((plane + offsets).clip(0, 255), 0, 2))

        def unrounded() -> Unrounded:
            planes = (coloured(plane) for plane in (real, self.jpeg.brightness, target))
            return Unrounded(*(torch.from_numpy(np.moveaxis(plane, 2, 0) / 255).float() for plane in planes))

        def drawn() -> NDArray[np.float32]:
            period, phase = self._waves
            return drawn_on_grey(self.design, picture.height, picture.width, "hatch", period, picture.turn, phase)

        return Watermarked(
            picture.pixels,
            coloured(target).astype(np.uint8),
            as_read(decoded(data)),
            "resize",
            self.maker.rounding,
            certificate,
            unrounded,
            drawn,
            Jpeg(data, self.jpeg.lost, self.jpeg.compared_with, len(data) / len(self.jpeg.data), changed),
        )

    @cached_property
    def _waves(self) -> tuple[Period, float]:
        """Period and phase of the hatch on the picture as it is to be seen: those of the stored blocks."""
        picture, geometry = self.jpeg.picture, self.view.geometry
        stored, size = picture.orientation, self.jpeg.brightness.shape
        ratios = picture.height / geometry.resized[1], picture.width / geometry.resized[0]
        as_stored = picture.turn.transposed != stored.transposed
        period = wave_period(ratios[::-1] if as_stored else ratios)
        if stored.transposed:
            period, size = period[::-1], size[::-1]
        return period, wave_phase(period, size, stored.flipped)

    def _wish(self) -> Plane:
        """The luma with the mark on it."""
        image = torch.from_numpy(self.jpeg.brightness.astype(np.float32))[None].div_(255)
        period, phase = self._waves
        target = self.design.target(image, "hatch", period, turn=self.jpeg.picture.orientation, phase=phase)
        levels: Plane = target[0].clamp_(0, 1).mul_(255).round_().to(torch.uint8).numpy()
        return levels

    @cached_property
    def _room(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """How far the luma can move down and up until a channel is clipped, or no longer is."""
        luma = self.jpeg.brightness.astype(np.int16)
        channels = luma[None] if self.jpeg.offsets is None else luma + self.jpeg.offsets
        down = np.where(channels > 255, channels - 255, np.where(channels < 0, 255, channels)).min(0)
        up = np.where(channels < 0, -channels, np.where(channels > 255, 255, 255 - channels)).min(0)
        return np.minimum(down, luma), np.minimum(up, 255 - luma)

    @cached_property
    def _margin(self) -> int:
        """What rounding the coefficients adds to a pixel; of the coarsest, which mostly stay 0, no more than 12."""
        noise = float(np.sqrt((self.jpeg.luma.table.astype(np.float64) ** 2).mean() / 12))
        return int(np.clip(round(NOISE * noise), 2, 12))

    @cached_property
    def _bounds(self) -> tuple[Plane, Plane]:
        luma = self.jpeg.brightness.astype(np.int16)
        down, up = ((side - self._margin).clip(0) for side in self._room)
        return (luma - down).astype(np.uint8), (luma + up).astype(np.uint8)

    @cached_property
    def _cramped(self) -> Bool[NDArray[np.bool_], "n m"]:
        """Blocks that would be clipped, whatever was done to them."""
        down, up = self._room
        return self._blocks(np.minimum(down, up) < self._margin).mean((2, 3)) > CRAMPED

    def _projected(self, target: Plane, free: NDArray[np.bool_]) -> tuple[ResizeProblem, DualPoint]:
        """The nearest luma, no whole numbers, whose view all channels' cells allow."""
        reader = self.readers[0]
        down, across = reader.matrices(*self.jpeg.brightness.shape)
        resize = SeparableResize(down, across, 1, self.maker.device)
        touching = SeparableResize(down != 0, across != 0, 1, self.maker.device)
        own, changing = self.jpeg.brightness[:, None], self._within(free)[:, None]
        lower, upper = (np.where(changing, bound[:, None], own) for bound in self._bounds)

        def on_device(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.maker.device)

        view = down @ own[:, 0].astype(np.float64) @ across.T - reader.oriented(reader.wish(free))
        aim, reads = (
            on_device(view[:, None].astype(np.float32)),
            on_device(reader.oriented(reader.reads(free))[:, None]),
        )
        aimed, y = target[:, None], None
        for blend in range(BLENDS + 1):
            problem = ResizeProblem(resize, WholeView(), on_device(aimed), on_device(lower), on_device(upper))
            point = project_onto_view(problem, aim, y, max_iterations=8 if y is None else 5)
            tight = (point.residual.abs() > CELL) & reads
            if blend == BLENDS or not bool(tight.any()):
                break
            under = torch.cat([hits > 0 for _, hits in touching.shifts(tight.float())]).cpu().numpy()[:, None]
            change = aimed.astype(np.int16) - own
            halved = own + np.sign(change) * (np.abs(change) // 2)
            aimed, y = np.where(under, halved, aimed).astype(np.uint8), point.y * ~tight
        return problem, point

    def _blocks(self, plane: NDArray[Any]) -> NDArray[Any]:
        """[..., H, W] to [..., n, m, 8, 8], filled up with zeros."""
        n, m = self.grid
        *others, height, width = plane.shape
        padded = np.zeros((*others, n * SIDE, m * SIDE), plane.dtype)
        padded[..., :height, :width] = plane
        return padded.reshape(*others, n, SIDE, m, SIDE).swapaxes(-3, -2)

    def _within(self, blocks: Bool[NDArray[np.bool_], "n m"]) -> Bool[NDArray[np.bool_], "H W"]:
        """The pixels of these blocks."""
        height, width = self.jpeg.brightness.shape
        return np.repeat(np.repeat(blocks, SIDE, 0), SIDE, 1)[:height, :width]
