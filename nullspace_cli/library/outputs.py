"""Results as image files."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.engine.files.containers import Container, Encoded
from nullspace_cli.engine.files.pictures import container_of, write_picture
from nullspace_cli.engine.files.two_readings import Reading
from nullspace_cli.engine.files.writing import FilesTogether

logger = logging.getLogger(__name__)


def save_picture(
    path: Path | str,
    encode: Callable[[Container], Encoded],
    pixels: NDArray[np.uint8],
    reading: Reading,
    *,
    overwrite: bool,
) -> Path:
    """Write pixels in the format that the file's ending names, .png, .webp or .tif, and read them back.

    What of the source's metadata that format has no place for is a warning of the logger.

    Raises:
        ArtifactError: the file cannot be written, is there already, or its ending is that of a lossy format.
        ImageError: the format cannot hold such samples.
    """
    file = Path(path)
    data, lost = encode(container_of(file))
    with FilesTogether(force=overwrite) as files:
        write_picture(files, file, data, pixels, reading)
    if lost:
        logger.warning("%s goes without what its source has: %s", file, ", ".join(lost))
    return file
