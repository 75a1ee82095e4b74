"""Pages that `--report` wrote, read by Python's own parser of HTML."""

import base64
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass
class Read(HTMLParser):
    """What a page holds.

    Attributes:
        pictures: of each view of each image, by its `alt`, in the page's order.
        thumbnails: how many there are.
        names: of the images in the lists, in their order.
        tags: all elements.
        texts: what is said, by element.
        elsewhere: addresses of what is not in the page itself.
    """

    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    thumbnails: int = 0
    names: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    policy: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        address = about.get("src", about.get("href", about.get("xlink:href", "#")))
        if not address.startswith(("data:", "#")):
            self.elsewhere.append(address)
        if about.get("http-equiv") == "Content-Security-Policy":
            self.policy = about["content"]
        if tag == "th" and "title" in about:
            self.names.append(about["title"])
        if tag != "img":
            return
        if not about["alt"]:
            self.thumbnails += 1
            return
        data = base64.b64decode(about["src"].partition(",")[2], validate=True)
        self.pictures[about["alt"]] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1], data.strip()))

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script"))


def read_page(path: Path | str) -> Read:
    """The pictures of the last image of a name count: pages of one image have each once."""
    page = Read()
    page.feed(Path(path).read_text(encoding="utf-8"))
    page.close()
    return page


def scripts(path: Path | str) -> list[str]:
    """The scripts of a page, as they are written."""
    return re.findall(r"<script>(.*?)</script>", Path(path).read_text(encoding="utf-8"), re.DOTALL)
