"""How far noise moves saliency maps, and how faithful they are: `python examples/saliency_table.py`.

    python examples/saliency_table.py [--model MODEL] [--images FOLDER] [--count N] [--methods M,...] [--sigma RMS]
        [--no-faithfulness] [VITNULL OPTION...]

Two markdown tables. Noise in the null space of the patch embedding, white noise and noise in its row space, all of one
norm: Spearman's correlation, SSIM and the overlap of the top tenths, each the mean over the images, on the methods' own
grids. Areas under the predictions kept while the most (positive) or least (negative) relevant pixels are taken away.
Calls the command line alone; by default on drawings that the embedded model knows, offline.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.pictures import encode_png

KINDS = ("null", "random", "row_space")
MEASURES = ("spearman", "ssim", "top10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--images", type=Path, help="a folder of images; by default drawings are made")
    parser.add_argument("--count", type=int, default=20, help="how many images; 0 for all")
    parser.add_argument("--methods", default="all")
    parser.add_argument("--no-faithfulness", action="store_true", help="for models without classes")
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
        if not options.no_faithfulness:
            rest.append("--faithfulness")
        document = explained(images, options.model, options.methods, options.sigma, rest)
    noise = document["noise"]
    print("| method | " + " | ".join(f"{kind.replace('_', ' ')}: {', '.join(MEASURES)}" for kind in KINDS) + " |")
    print("| --- |" + " --- |" * len(KINDS))
    for method, kinds in noise["methods"].items():
        print(f"| {method} | " + " | ".join(cell(kinds[kind], len(images)) for kind in KINDS) + " |")
    if noise["match_percent"]["null"] is not None:
        print("| predictions kept | " + " | ".join(f"{noise['match_percent'][kind]:.0f}%" for kind in KINDS) + " |")
    if options.no_faithfulness:
        return
    print("\n| method | positive | negative | random map: positive | negative |")
    print("| --- | --- | --- | --- | --- |")
    for method, areas in document["faithfulness"].items():
        values = [found[name] for found in (areas, areas["random"]) for name in ("positive", "negative")]
        print(f"| {method} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


def explained(images: list[Path], model: str, methods: str, sigma: str, rest: list[str]) -> dict[str, Any]:
    """The document of one run of the command line."""
    command = [
        "vitnull",
        "explain",
        *map(str, images),
        "--model",
        model,
        "--method",
        methods,
        "--no-pictures",
        "--json",
    ]
    command += ["--no-float", "--compare-noise", sigma, *rest]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 4):  # 4: some images failed
        sys.exit(result.stderr)
    document = json.loads(result.stdout)
    if document["failures"]:
        print(result.stderr, file=sys.stderr)
    return document if document["images"] else sys.exit("None of the images could be done.")


def cell(likeness: dict[str, Any], images: int) -> str:
    if likeness["undefined"] == images:
        return "undefined"
    values = ", ".join(f"{likeness[name]:.3f}" for name in MEASURES)
    return f"{values} ({likeness['undefined']} undefined)" if likeness["undefined"] else values


if __name__ == "__main__":
    main()
