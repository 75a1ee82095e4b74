"""What a decoder makes of a JPEG's luma: libjpeg-turbo's own arithmetic, to the bit.

With every chroma plane fixed a pixel is clip(Y + o), with whole numbers o for red, green and blue that do not change.
So one block of luma coefficients can be decoded by itself, and many trials of it at once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray

_BITS = 13
"""Of the inverse transform's constants behind the binary point."""

GREY_SHARES = (19595, 38470, 7471)
"""Of red, green and blue in Pillow's grey, in 65536ths."""


def _passes() -> Float[NDArray[np.float64], "8 8"]:
    """One pass of libjpeg's accurate integer transform (jidctint.c), before it is rounded: it is linear."""
    x = np.eye(8)

    def c(value: float) -> int:
        return round(value * 2**_BITS)

    z = (x[2] + x[6]) * c(0.541196100)
    low, high = z - x[6] * c(1.847759065), z + x[2] * c(0.765366865)
    total, difference = (x[0] + x[4]) * 2**_BITS, (x[0] - x[4]) * 2**_BITS
    even = [total + high, difference + low, difference - low, total - high]
    z1, z2, z3, z4 = x[7] + x[1], x[5] + x[3], x[7] + x[3], x[5] + x[1]
    z5 = (z3 + z4) * c(1.175875602)
    z1, z2 = z1 * -c(0.899976223), z2 * -c(2.562915447)
    z3, z4 = z3 * -c(1.961570560) + z5, z4 * -c(0.390180644) + z5
    odd = [
        x[1] * c(1.501321110) + z1 + z4,
        x[3] * c(3.072711026) + z2 + z3,
        x[5] * c(2.053119869) + z2 + z4,
        x[7] * c(0.298631336) + z1 + z3,
    ]
    return np.stack(
        [a + b for a, b in zip(even, odd, strict=True)] + [a - b for a, b in zip(even[::-1], odd[::-1], strict=True)]
    )


_PASS = _passes()


@dataclass(frozen=True, eq=False)
class LumaDecoder:
    """Decodes blocks of luma coefficients to pixels, the chroma being what it is.

    Attributes:
        table: the quantisation table of the luma.
        offsets: red, green and blue less the luma, unclipped; None of a greyscale JPEG.
        in_grey: whether readers take the grey of colours, as Pillow makes it.
    """

    table: Int[NDArray[np.int32], "8 8"]
    offsets: Int[NDArray[np.int16], "n m 3 8 8"] | None = None
    in_grey: bool = False

    def __call__(
        self,
        coefficients: Int[NDArray[np.int32], "*blocks 8 8"],
        at: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    ) -> UInt8[NDArray[np.uint8], "*blocks c 8 8"]:
        """All blocks [n, m]; or, `at` N of them, K trials of each, [N, K]."""
        luma = decoded_luma(coefficients, self.table)[..., None, :, :]
        if self.offsets is None:
            return luma
        offsets = self.offsets if at is None else self.offsets[at][:, None]
        colours = (luma + offsets).clip(0, 255)
        if not self.in_grey:
            return colours.astype(np.uint8)
        shares = np.array(GREY_SHARES)[:, None, None]
        return ((colours * shares).sum(-3, keepdims=True) + 0x8000 >> 16).astype(np.uint8)


def decoded_luma(
    coefficients: Int[NDArray[np.int32], "*n 8 8"], table: Int[NDArray[np.int32], "8 8"]
) -> UInt8[NDArray[np.uint8], "*n 8 8"]:
    """The 8-bit luma of blocks: libjpeg's `islow` transform, which its vector code gives to the bit, too."""
    values = coefficients * table.astype(np.float64)  # whole numbers far below 2^53: products of matrices are exact
    down = np.floor((_PASS @ values + 2 ** (_BITS - 3)) * 2.0 ** (2 - _BITS))
    across = np.floor((down @ _PASS.T + 2 ** (_BITS + 4)) * 2.0 ** -(_BITS + 5))
    return (across + 128).clip(0, 255).astype(np.uint8)


def colour_offsets(
    cb: UInt8[NDArray[np.uint8], "H W"], cr: UInt8[NDArray[np.uint8], "H W"]
) -> Int[NDArray[np.int16], "3 H W"]:
    """By how much red, green and blue differ from the luma before they are clipped: jdcolor.c's tables."""
    steps = np.arange(256, dtype=np.int64) - 128
    one, half = 1 << 16, 1 << 15

    def c(value: float) -> int:
        return int(value * one + 0.5)

    red, blue = (c(1.402) * steps + half) >> 16, (c(1.772) * steps + half) >> 16
    green_cb, green_cr = half - c(0.34414) * steps, -c(0.71414) * steps
    planes = red[cr], (green_cb[cb] + green_cr[cr]) >> 16, blue[cb]
    return np.stack([plane.astype(np.int16) for plane in planes])
