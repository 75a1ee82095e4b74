"""The demo's mark, drawn with the font that Pillow carries."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont


def draw_logo(text: str = "vitnull", height: int = 160) -> NDArray[np.uint8]:
    """A word in bold white on transparent ground: uint8 RGBA [height, w, 4]."""
    font = ImageFont.load_default(height * 0.75)
    stroke = height // 40
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    width, middle = round(right - left) + height // 5, (top + bottom) / 2
    image = Image.new("RGBA", (width, height), (255, 255, 255, 0))
    corner = (height / 10 - left, height / 2 - middle)
    ImageDraw.Draw(image).text(corner, text, font=font, fill=(255, 255, 255, 255), stroke_width=stroke)
    return np.asarray(image)
