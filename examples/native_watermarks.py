"""Watermarks at native size on any model and folder: `python examples/native_watermarks.py MODEL [FOLDER] [OPTION...]`.

Every file is verified by running the model on it; `--format same` leaves JPEGs what they are.
Prints a row of a table: how many inputs stayed bit-identical and
predictions kept, how the confidence moved, what the mark is like and how long it took. Calls the command line alone;
without FOLDER on the embedded models' validation drawings, at 512 pixels.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.files.pictures import encode_png

DRAWINGS, SIDE = 500, 512
DONE = (0, 3, 4)
"""Exit codes of runs that say something: all well, a check failed, some images failed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder", nargs="?", help="of photos; by default drawings are made")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mark = folder / "mark.png"
        mark.write_bytes(encode_png(draw_logo()))
        images = options.folder or str(folder / "drawings")
        if not options.folder:
            (folder / "drawings").mkdir()
            for i in range(DRAWINGS):
                (folder / "drawings" / f"{i:04d}.png").write_bytes(encode_png(draw("val", i, size=SIDE)[0]))
        command = [sys.executable, "-m", "nullspace_cli", "watermark", images, str(mark), "--model", options.model]
        command += ["--out-dir", str(folder / "out"), "--verify", "--json", *rest]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if result.returncode not in DONE:
            sys.exit(result.returncode)
        document = json.loads(result.stdout)
        if not document["images"]:
            sys.exit("None of the images could be done.")
        print_row(options.model, document)
        if failed := document["summary"]["failed"]:
            print(f"\n{failed} more could not be done; what failed is named above.", file=sys.stderr)


def print_row(model: str, document: dict[str, Any]) -> None:
    records, summary = document["images"], document["summary"]

    def spread(key: str, form: str) -> str:
        values = sorted(record[key] for record in records if record[key] is not None)
        return (
            " / ".join(format(values[round(share * (len(values) - 1))], form) for share in (0, 0.5, 1))
            if values
            else "-"
        )

    kept = "no head" if summary["matched"] is None else f"{summary['match_percent']:.1f}%"
    print(
        "| model | images | bit-identical | input changed | levels | kept | confidence change | features | mark | "
        "PSNR, dB | file size | images/s |"
    )
    print(f"|{' --- |' * 12}")
    print(
        f"| {model} | {len(records)} | {summary['bit_identical']} | "
        f"{spread('input_pixels_changed', '.3%')} | {spread('input_max_change', 'd')} | {kept} | "
        f"{spread('confidence_change', '.3%')} | "
        f"{spread('feature_change', '.3%')} | {spread('mark_correlation', '.2f')} | {spread('psnr', '.1f')} | "
        f"{spread('file_size_ratio', '.2f')} | {summary['images_per_second']:.2f} |"
    )


if __name__ == "__main__":
    main()
