"""What is left of pixels once they have been saved as a JPEG, as most who pass pictures on do."""

from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image


def as_jpeg(pixels: UInt8[NDArray[Any], "H W 3"], quality: int) -> UInt8[NDArray[Any], "H W 3"]:
    """Encoded and decoded by Pillow, in its own way: quality from 1 to 100, colours at half the size (4:2:0)."""
    data = BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality)
    return np.array(Image.open(data))
