"""Watermark the JPEGs of a folder as JPEGs, and print rows of a table about them, by folder and by quality.

    python examples/jpeg_table.py MODEL FOLDER RECORDS [VITNULL OPTION...]

The records of photos that are done go to the file RECORDS, one a line; called again, it goes on after them, and prints
the rows of all. What changed of the model's input is computed from the written files by timm and Pillow alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config

from nullspace_cli.demo.logo import draw_logo
from nullspace_cli.engine.files.pictures import encode_png

TABLE_OF_50 = 57.625
"""The mean step of the luma's table at quality 50, in Annex K of the standard; libjpeg scales that by the quality."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("records", type=Path)
    given, options = parser.parse_known_args()
    model, records = given.model, given.records
    photos = sorted(given.folder.rglob("*.jpg"))
    done = read(records)
    for photo in photos:
        if str(photo) not in {record["source"] for record in done}:
            with records.open("a") as stream:
                stream.write(json.dumps(marked(photo, model, options)) + "\n")
    print(
        "| model | photos | quality | done | bit-identical | input changed | levels | class kept | mark | file size |"
    )
    print(f"|{' --- |' * 10}")
    groups = defaultdict(list)
    for record in read(records):
        groups[record["folder"], record["quality"]].append(record)
    for (name, quality), group in sorted(groups.items()):
        print(row(model, name, quality, group))


def read(records: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []


def marked(photo: Path, model: str, options: Sequence[str]) -> dict[str, Any]:
    """What the command line says of one photo, and what is measured of its file here."""
    about = {"source": str(photo), "folder": folder_of(photo), "quality": quality_of(photo)}
    with tempfile.TemporaryDirectory() as name:
        mark, out = Path(name, "mark.png"), Path(name, "out.jpg")
        mark.write_bytes(encode_png(draw_logo()))
        command = [
            sys.executable,
            "-m",
            "nullspace_cli",
            "watermark",
            str(photo),
            str(mark),
            "-o",
            str(out),
            "--model",
            model,
            "--json",
            *options,
        ]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not out.exists():
            return {**about, "done": False}
        (record,) = json.loads(result.stdout)["images"]
        change = np.abs(levels(out, model) - levels(photo, model))
    return {
        **about,
        "done": True,
        "changed": float((change > 0).mean()),
        "levels": int(change.max()),
        **{key: record[key] for key in ("match", "mark_correlation", "file_size_ratio", "seconds")},
    }


def folder_of(photo: Path) -> str:
    """The last part of its path that is a name and no number: ImageNet's folders are classes."""
    return next(part for part in photo.parent.parts[::-1] if not part.isdigit())


def quality_of(photo: Path) -> int:
    """Where libjpeg's own tables have the same mean."""
    with Image.open(photo) as image:
        scale = float(np.mean(image.quantization[0])) / TABLE_OF_50  # type: ignore[attr-defined]
    return round(100 - 50 * scale if scale <= 1 else 50 / scale)


def levels(path: Path, model: str) -> NDArray[np.int16]:
    """The 8-bit input, by timm's transform."""
    config = resolve_data_config({"input_size": (3, 224, 224)}, model=timm.create_model(model))
    transform = create_transform(**{**config, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    with Image.open(path) as image:
        seen: NDArray[np.int16] = np.rint(255 * transform(image.convert("RGB")).numpy()).astype(np.int16)
    return seen


def row(model: str, name: str, quality: int, group: Sequence[dict[str, Any]]) -> str:
    done = [record for record in group if record["done"]]

    def spread(key: str, form: str) -> str:
        return " / ".join(format(value, form) for value in np.quantile([record[key] for record in done], (0, 0.5, 1)))

    answers = [record["match"] for record in done if record["match"] is not None]
    kept = f"{sum(answers)} of {len(answers)}" if answers else "no head"
    identical = sum(record["changed"] == 0 for record in done)
    cells = [model, name, f"{quality}", f"{len(done)} of {len(group)}"]
    if done:
        cells += [f"{identical}", spread("changed", ".3%"), spread("levels", ".0f"), kept]
        cells += [spread("mark_correlation", ".2f"), spread("file_size_ratio", ".2f")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
