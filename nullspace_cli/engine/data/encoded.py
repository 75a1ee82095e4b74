"""Image files that are members of something else: read by the one reader of files, and called by their own names."""

import tempfile
from pathlib import Path

from nullspace_cli.engine.data.collection import Decoded
from nullspace_cli.engine.errors import ImageError
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.files.two_readings import Reading


def decode_file(content: bytes, name: str, reading: Reading) -> Decoded:
    """What `read_picture` gives for a file of this content.

    Args:
        name: for messages; its suffix says the format where the content does not.

    Raises:
        ImageError: as `read_picture`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image").with_suffix(Path(name).suffix)
        path.write_bytes(content)
        try:
            return Decoded.of(read_picture(path, reading))
        except ImageError as error:
            raise ImageError(str(error.args[0]).replace(str(path), name), hint=error.hint) from error
