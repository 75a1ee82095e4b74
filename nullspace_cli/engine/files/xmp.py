"""XMP packets: which way is up, and pictures of the picture within them."""

import re

_ORIENTATION = re.compile(rb"""(\btiff:Orientation\s*=\s*["']|<tiff:Orientation\s*>\s*)[0-9]""")
_THUMBNAILS = re.compile(rb"<(\w+):Thumbnails\b[^>]*>.*?</\1:Thumbnails\s*>", re.DOTALL)
_EXTENDED = re.compile(
    rb"""\s\w+:HasExtendedXMP\s*=\s*(["'])[^"']*\1|<(\w+):HasExtendedXMP\b.*?</\2:HasExtendedXMP\s*>"""
)


def with_orientation(xmp: bytes, value: int) -> bytes:
    """The packet with another orientation, 1 to 8, wherever it says one."""
    return _ORIENTATION.sub(rb"\g<1>%d" % value, xmp)


def without_pictures(xmp: bytes) -> bytes:
    """The packet without thumbnails, which show what the image was, and without the name of a part that lies apart."""
    return _EXTENDED.sub(b"", _THUMBNAILS.sub(b"", xmp))
