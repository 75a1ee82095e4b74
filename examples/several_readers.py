"""One mark for all common readers: `python examples/several_readers.py [--size WIDTHxHEIGHT] MODEL... -- [IMAGE...]`.

Marks each picture with `readers=["common"]` for the first MODEL, at its own size, or cut to the shape of --size and
scaled to it by Pillow's lanczos, and asks every MODEL about source and result: a name, or NAME=FILE with its weights.
Without IMAGE it takes the demo's drawings. Prints a row of a table for each picture.
"""

import argparse
import sys
import time

import numpy as np
from PIL import Image, ImageOps

import nullspace_cli as vitnull
from nullspace_cli.demo.drawing import draw

SIDE, DRAWINGS = 1600, 2
MARK = vitnull.text_image("CONFIDENTIAL\n(c) 2026")


def main() -> None:
    before, images = split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), metavar="WIDTHxHEIGHT")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    options = parser.parse_args(before)
    size, names = options.size, options.models
    models = [vitnull.load_model(name, checkpoint=file or None) for name, _, file in (n.partition("=") for n in names)]
    print("| picture | size | readers | most changed | share | rms | largest | mean share | mark | kept | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, picture in ((path, Image.open(path).convert("RGB")) for path in images):
        row(name.rpartition("/")[2], picture, size, models)
    for i in range(0 if images else DRAWINGS):
        row(f"drawing {i}", Image.fromarray(draw("val", i, size=SIDE)[0]), size, models)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before -- and what behind it."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def row(name: str, picture: Image.Image, size: tuple[int, int] | None, models: list[vitnull.Model]) -> None:
    if size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    source, start = np.asarray(picture), time.monotonic()
    result = vitnull.make_watermark(models[0], source, MARK, readers=["common"])
    seconds, readers = time.monotonic() - start, result.readers
    worst = max(readers, key=lambda reader: reader["input_pixels_changed"])
    kept = sum(answer(model, source) == answer(model, result.pixels) for model in models)
    print(
        f"| {name} | {picture.width} x {picture.height} | {len(readers)} | {worst['reader']} | "
        f"{worst['input_pixels_changed']:.2%} | {max(r['rms'] for r in readers):.2f} | "
        f"{max(r['max'] for r in readers)} | {np.mean([r['input_pixels_changed'] for r in readers]):.2%} | "
        f"{result.to_dict()['mark_correlation']:.2f} | {kept} of {len(models)} | {seconds:.0f} |",
        flush=True,
    )


def answer(model: vitnull.Model, pixels: np.ndarray) -> int:
    logits = model(model.transform(pixels)[None]).logits
    assert logits is not None
    return int(logits.argmax())


if __name__ == "__main__":
    main()
