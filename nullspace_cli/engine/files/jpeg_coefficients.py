"""A JPEG's luma coefficients, out of its bytes and back in, with everything else of the picture left as it is.

By jpeglib, of which three habits need care: its state belongs to the process, it talks by files, and its C library
ends the process where a file is damaged. So it is called under a lock, and given what Pillow has decoded without
complaint.
"""

import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.files.jpeg_segments import Segment, frame_of, spliced

_LOCK = threading.Lock()
_PROGRESSIVE = 0xC2
_BASELINE_LIBRARY, _PROGRESSIVE_LIBRARY = "turbo210", "mozjpeg403"
"""Of those that jpeglib carries: Pillow's own, and the one whose coefficients come in scans again."""


class Luma(NamedTuple):
    """The luma of a JPEG: [n, m] blocks of whole coefficients, in steps of the table."""

    coefficients: Int[NDArray[np.int32], "n m 8 8"]
    table: Int[NDArray[np.int32], "8 8"]


def require_jpeglib() -> Any:
    """The library.

    Raises:
        ArtifactError: it is not installed.
    """
    try:
        import jpeglib
    except ImportError as error:
        raise ArtifactError(
            "Writing a watermark as .jpg needs jpeglib, which is not installed. Install it with "
            "`pip install 'vitnull[jpeg]'`, or write .png, .webp or .tif."
        ) from error
    return jpeglib


def why_no_coefficients(data: bytes) -> str | None:
    """Why the coefficients of a decoded JPEG cannot be taken over, as a clause; None if they can."""
    try:
        frame = frame_of(data)
    except ValueError as error:
        return str(error)
    if frame.marker > _PROGRESSIVE or frame.bits != 8:
        return "it is not coded by Huffman's method with 8 bits"
    if len(frame.sampling) not in (1, 3):
        return f"it has {len(frame.sampling)} planes of colour, not luma and chroma"
    if len(frame.sampling) == 3 and frame.sampling[0] != tuple(
        max(sides) for sides in zip(*frame.sampling, strict=True)
    ):
        return "its chroma is finer than its luma"
    return None


def read_luma(data: bytes) -> Luma:
    """The luma of a JPEG that Pillow decodes without complaint, and of which `why_no_coefficients` knows nothing."""
    jpeglib = require_jpeglib()
    with _LOCK, tempfile.TemporaryDirectory() as folder:
        jpeg = _opened(jpeglib, data, Path(folder) / "source.jpg", _BASELINE_LIBRARY)
        coefficients, table = np.array(jpeg.Y, np.int32), np.array(jpeg.qt[jpeg.quant_tbl_no[0]], np.int32)
    return Luma(coefficients, table)


def with_luma(data: bytes, coefficients: Int[NDArray[np.integer], "n m 8 8"], says: list[Segment]) -> bytes:
    """The same JPEG with other luma coefficients and such segments about the picture.

    Its tables and its chroma stay; it is progressive if it was. The Huffman codes are those that suit it best.
    """
    jpeglib = require_jpeglib()
    library = _PROGRESSIVE_LIBRARY if frame_of(data).marker == _PROGRESSIVE else _BASELINE_LIBRARY
    with _LOCK, tempfile.TemporaryDirectory() as folder:
        jpeg, file = _opened(jpeglib, data, Path(folder) / "source.jpg", library), Path(folder) / "result.jpg"
        jpeg.load()
        jpeg.Y, jpeg.qt = coefficients.astype(np.int16), -1  # with tables of its own it would renumber the planes
        jpeg.write_dct(str(file), flags=["+OPTIMIZE_CODING"])
        return spliced(file.read_bytes(), says)


def _opened(jpeglib: Any, data: bytes, file: Path, library: str) -> Any:
    file.write_bytes(data)
    jpeglib.version.set(library)
    return jpeglib.read_dct(str(file))
