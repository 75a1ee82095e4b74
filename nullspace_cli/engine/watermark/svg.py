"""Logos as SVG, drawn by resvg in a process of its own: one that hangs or needs too much is ended, and nothing else."""

import gzip
import io
import subprocess
import sys
import zlib
from pathlib import Path
from xml.parsers import expat

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from nullspace_cli.engine.errors import ImageError, first_line
from nullspace_cli.engine.files.paths import reason_of

ENDINGS = (".svg", ".svgz")

MAX_BYTES = 1 << 24
"""Of the drawing, unpacked."""

SIDE = 2048
"""Pixels of the longer side."""

SECONDS = 60
"""For a drawing, whose parts may use each other without end."""

PROGRAM = f"""
import sys
try:
    from resvg_py import svg_to_bytes
except ImportError:
    sys.exit(9)
try:
    drawn = svg_to_bytes(svg_string=sys.stdin.buffer.read().decode(), width={SIDE}, height={SIDE})
except ValueError as error:
    sys.exit(str(error))
sys.stdout.buffer.write(bytes(drawn))
"""
ABSENT = 9


def is_svg(path: Path) -> bool:
    """Whether a file is one, by its ending."""
    return path.suffix.lower() in ENDINGS


def read_svg(path: Path) -> UInt8[NDArray[np.uint8], "h w 4"]:
    """Draw an SVG, its longer side SIDE pixels; what it does not cover is transparent.

    Raises:
        ImageError: the file is missing, too large, no SVG, or refers to other files; or resvg is missing or fails.
    """
    text = _text(path)
    if _pictures_elsewhere(text, path):
        raise ImageError(
            f"{path} refers to a picture outside itself, which is not read. Embed the picture in it, or use a PNG."
        )
    command = [sys.executable, "-P", "-c", PROGRAM]
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"Cannot draw {path}: it takes more than {SECONDS} seconds. Use a PNG.") from error
    if done.returncode == ABSENT:
        raise ImageError(
            f"Cannot read {path}: SVG needs resvg, which is not here. Run pip install 'vitnull[svg]', or use a PNG."
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ImageError(f"Cannot draw {path}: {said[-1] if said else 'resvg failed'}. Use a PNG.")
    with Image.open(io.BytesIO(done.stdout)) as image:
        return np.asarray(image.convert("RGBA"))


def _text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            text = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = reason_of(error) if isinstance(error, OSError) else first_line(error)
        raise ImageError(f"Cannot read {path}: {reason}. Give an .svg file.") from error
    if len(text) > MAX_BYTES:
        raise ImageError(f"Cannot read {path}: it is larger than {MAX_BYTES >> 20} MB. Use a PNG.")
    return text


def _pictures_elsewhere(text: bytes, path: Path) -> list[str]:
    """Pictures that an SVG names and that are not in it. Of all else resvg reads what lies within alone.

    Raises:
        ImageError: it is no XML, or its root is no <svg>.
    """
    found: list[str] = []
    names: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        names.append(name.rpartition(":")[2])
        if names[-1] not in ("image", "feImage"):
            return
        hrefs = [value for key, value in attributes.items() if key.rpartition(":")[2] == "href"]
        found.extend(href for href in hrefs if not href.strip().startswith(("data:", "#")))

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ImageError(f"Cannot read {path}: it is no SVG ({first_line(error)}).") from error
    if names[0] != "svg":
        raise ImageError(f"Cannot read {path}: it is no SVG, but <{names[0]}>.")
    return found
