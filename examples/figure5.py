"""Figure 5 of the paper: `python examples/figure5.py [--bounded] [--model MODEL] [--images FOLDER] [--count N]`.

Images that look like their target and are their source to the network, by default among drawings that the embedded
model knows. Of each class one image is a target; its source is the image of another class that suits it best.
Unbounded, they are float images nearest to the target in the 1-norm, shown clipped; bounded, 8-bit files. Captions are
the answers for what is shown, and for the float images.
"""

import argparse
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.adversarial.attack import Attack
from nullspace_cli.engine.adversarial.report import Report
from nullspace_cli.engine.adversarial.sources import rank_sources
from nullspace_cli.engine.files.pictures import encode_png, read_picture
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel
from nullspace_cli.engine.plots.figure import save_figure
from nullspace_cli.engine.plots.fooling import ROWS, answer_to
from nullspace_cli.engine.workflows.fool import FoolFiles, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--bounded", action="store_true", help="valid 8-bit images")
    parser.add_argument("--no-pretrained", action="store_true", help="random weights")
    parser.add_argument("--images", type=Path, help="a folder of images; by default 30 drawings are made")
    parser.add_argument("--count", type=int, default=6, help="how many targets")
    parser.add_argument("--out", type=Path, default=Path("figure5.png"))
    options = parser.parse_args()

    network = LazyModel(ModelRequest(options.model, pretrained=not options.no_pretrained))
    fool = Attack(network) if options.bounded else Attack(network, bounded=False, norm=1, strength=1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.images:
            images = [path for path in options.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        else:
            images = [folder / f"{i:04d}.png" for i in range(30)]
            for i, path in enumerate(images):
                path.write_bytes(encode_png(draw("val", i)[0]))
        done: dict[str, Report] = {}
        for path in sorted(images):
            target = read_picture(path).pixels
            logits = network.model(network.transform(target)[None]).logits
            label = "" if logits is None else str(int(logits[0].argmax()))
            if label in done:
                continue
            source = read_picture(rank_sources(fool, [other for other in images if other != path], target)[0].path)
            made = fool(source, target)
            done[label] = report(
                fool, made, source, path, FoolFiles.of(folder, source.path.stem, path.stem), (), force=True
            )
            if len(done) == options.count:
                break
    draw_triples(options.out, list(done.values()))
    print(options.out)


def draw_triples(path: Path, reports: list[Report]) -> None:
    """One pair a column: source, target and transformed image, with what the network says."""
    figure = Figure(figsize=(2.4 * len(reports) + 0.3, 8.2), layout="constrained")
    axes = figure.subplots(3, len(reports), squeeze=False)
    for column, found in enumerate(reports):
        for row, name in enumerate(ROWS):
            axis = axes[row, column]
            axis.imshow(found.pictures[row][found.read])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(answer_to(found.record, name), fontsize=11)
            if column == 0:
                clipped = row == 2 and not found.record["bounded"]
                axis.set_ylabel(f"{name}, clipped" if clipped else name, fontsize=13)
    save_figure(path, figure, force=True)


if __name__ == "__main__":
    main()
