"""How far noise moves saliency maps, as a markdown table: `python examples/saliency_table.py`.

    python examples/saliency_table.py [--model MODEL] [--images FOLDER] [--count N] [--sigma RMS] [VITNULL OPTION...]

Noise in the null space of the patch embedding, white noise and noise in its row space, all of equal norm; Spearman's
correlation, SSIM and the overlap of the top tenths, each the mean over the images, on the methods' own grids. Calls the
command line alone; by default on drawings that the embedded model knows, offline.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.images import encode_png

KINDS = ("null", "random", "row_space")
MEASURES = ("spearman", "ssim", "top10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--images", type=Path, help="a folder of images; by default drawings are made")
    parser.add_argument("--count", type=int, default=20, help="how many images; 0 for all")
    parser.add_argument("--sigma", default="0.1", help="root mean square of the noise, of pixels in [0, 1]")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        if options.images:
            found = (path for path in options.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
            images = sorted(found)[: options.count or None]
        else:
            images = [Path(name) / f"{i:04d}.png" for i in range(options.count or 500)]
            for i, path in enumerate(images):
                path.write_bytes(encode_png(draw("val", i)[0]))
        noise = compared(images, options.model, options.sigma, rest)
    print("| method | " + " | ".join(f"{kind.replace('_', ' ')}: {', '.join(MEASURES)}" for kind in KINDS) + " |")
    print("| --- |" + " --- |" * len(KINDS))
    for method, kinds in noise["methods"].items():
        print(f"| {method} | " + " | ".join(cell(kinds[kind], len(images)) for kind in KINDS) + " |")
    if noise["match_percent"]["null"] is not None:
        print("| predictions kept | " + " | ".join(f"{noise['match_percent'][kind]:.0f}%" for kind in KINDS) + " |")


def compared(images: list[Path], model: str, sigma: str, rest: list[str]) -> dict[str, Any]:
    """What one run of the command line says of the maps under noise."""
    command = ["vitnull", "explain", *map(str, images), "--model", model, "--method", "all", "--compare-noise", sigma]
    result = subprocess.run(
        [*command, "--no-pictures", "--no-float", "--json", *rest], capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout)["noise"]


def cell(likeness: dict[str, Any], images: int) -> str:
    if likeness["undefined"] == images:
        return "undefined"
    values = ", ".join(f"{likeness[name]:.3f}" for name in MEASURES)
    return f"{values} ({likeness['undefined']} undefined)" if likeness["undefined"] else values


if __name__ == "__main__":
    main()
