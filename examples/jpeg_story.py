"""Draw a picture, save it as a JPEG, mark that, and show what people and a model see: the README's first picture.

    python examples/jpeg_story.py docs/images/jpeg.png

What the model is given is computed by timm alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from timm.data import create_transform

from nullspace_cli.demo.drawing import draw

MIDDLE = (slice(280, 720), slice(354, 926))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        source, marked = Path(folder, "photo.jpg"), Path(folder, "marked.jpg")
        Image.fromarray(draw("test", 1, size=1280)[0][:960]).save(source, quality=90)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "nullspace_cli",
                "watermark",
                source,
                "--text",
                "(c) 2026",
                "--scale",
                "0.42",
                "-o",
                marked,
            ],
            check=True,
        )
        pictures = [np.asarray(Image.open(path)) for path in (source, marked)]
        inputs = [model_input(path) for path in (source, marked)]
        sizes = [path.stat().st_size // 1024 for path in (source, marked)]
    changed = int((inputs[0] != inputs[1]).sum())
    panels = {
        f"photo.jpg, {sizes[0]} KiB: its middle": pictures[0][MIDDLE],
        f"marked.jpg, {sizes[1]} KiB": pictures[1][MIDDLE],
        f"what the model is given of it:\n{changed} of {inputs[0].size} values changed": inputs[1],
    }
    figure = plt.figure(figsize=(15, 4.2), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, 3, width_ratios=[1.3, 1.3, 1]), panels.items(), strict=True):
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(title, fontsize=11)
    figure.savefig(out, dpi=120)


def model_input(path: Path) -> np.ndarray:
    """The 8-bit input of a ViT-S/32 and of every model with its transform."""
    transform = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.9, mean=(0.0,) * 3, std=(1.0,) * 3)
    with Image.open(path) as image:
        return (transform(image.convert("RGB")) * 255).round().byte().permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
