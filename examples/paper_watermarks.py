"""The paper's watermark experiment (section 6, A.2) on any model and folder: `python examples/paper_watermarks.py`.

    python examples/paper_watermarks.py [--model MODEL] [--images FOLDER] [--count N] [--mark LOGO] [VITNULL OPTION...]

At model size, through the patch embedding's nullspace; p = 1 as in the paper and p = 2, rounded to nearest and aware of
the nullspace. Calls the command line alone; by default on drawings that the embedded model knows, offline. The paper:
20 images, up to 5,000 iterations of SLSQP a patch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.files.pictures import encode_png

PAPER = "| the paper: p = 1, SLSQP | 20 | 85% | 11.63% | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--images", type=Path, help="a folder of images; by default drawings are made")
    parser.add_argument("--count", type=int, default=20, help="how many images; 0 for all")
    parser.add_argument("--mark", type=Path)
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mark = options.mark or write(folder / "mark.png", draw_logo())
        if options.images:
            images = sorted(
                path for path in options.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")
            )
        else:
            images = [write(folder / f"{i:04d}.png", draw("val", i)[0]) for i in range(options.count or 500)]
        images = images[: options.count or None]
        print("| run | images | kept | confidence off by, mean | largest | embedding moved | s/image |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        print(PAPER)
        for norm in (1, 2):
            for rounding in ("nearest", "aware"):
                out = folder / f"{norm}-{rounding}"
                print(
                    row(f"p = {norm}, {rounding}", watermarked(images, mark, out, options.model, norm, rounding, rest))
                )


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.write_bytes(encode_png(pixels))
    return path


def watermarked(
    images: list[Path], mark: Path, out: Path, model: str, norm: int, rounding: str, rest: list[str]
) -> dict[str, Any]:
    """The JSON document of one run of the command line."""
    command = ["vitnull", "watermark", *map(str, images), str(mark), "--model", model, "--size", "model"]
    command += ["--norm", str(norm), "--rounding", rounding, "--out-dir", str(out), "--verify", "--json", *rest]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 3, 4):  # 3: a check failed, 4: some images did
        sys.exit(result.stderr)
    document = json.loads(result.stdout)
    if document["failures"]:
        print(result.stderr, file=sys.stderr)
    return document if document["images"] else sys.exit("None of the images could be done.")


def row(name: str, document: dict[str, Any]) -> str:
    records, summary = document["images"], document["summary"]
    moved = sorted(record["embedding_error"] for record in records)[len(records) // 2]
    if summary["matched"] is None:
        kept = change = largest = "no head"
    else:
        kept = f"{summary['match_percent']:.1f}%"
        change, largest = (f"{summary[f'{key}_confidence_change']:.3%}" for key in ("mean", "max"))
    seconds = 1 / summary["images_per_second"]
    return f"| {name} | {len(records)} | {kept} | {change} | {largest} | {moved:.3%} | {seconds:.2f} |"


if __name__ == "__main__":
    main()
