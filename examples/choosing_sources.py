"""What choosing the source is worth: `python examples/choosing_sources.py TARGET [FOLDER] [--model MODEL] ...`.

Makes the fooled image of TARGET from every image of FOLDER in which the model sees another class, all with one
strength, and prints how like TARGET they are: the one that `vitnull fool TARGET --sources FOLDER` would take, beside
the best, the median and the worst; and how well the estimates that it goes by rank them. Without FOLDER, the images are
60 drawings that the embedded model knows.
"""

import argparse
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.adversarial.attack import Attack
from nullspace_cli.engine.adversarial.sources import FINALISTS, rank_sources
from nullspace_cli.engine.files.pictures import encode_png, read_picture
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.lazy_model import LazyModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--no-pretrained", action="store_true", help="random weights")
    parser.add_argument("--size", choices=("model", "native"), default="model")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        if not options.folder:
            for i in range(60):
                (Path(name) / f"{i:04d}.png").write_bytes(encode_png(draw("val", i)[0]))
        compare(options, options.folder or Path(name))


def compare(options: argparse.Namespace, folder: Path) -> None:
    target = read_picture(options.target).pixels
    sources = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    network = LazyModel(ModelRequest(options.model, options.checkpoint, not options.no_pretrained))
    fool = Attack(network, options.size)
    ranked = rank_sources(fool, sources, target)
    found = [(fool.rough(read_picture(path), target).likeness, path) for _, path in ranked]
    correlation = spearmanr([estimate for estimate, _ in ranked], [like.score for like, _ in found]).statistic
    print(f"{len(found)} of {len(sources)} images can be sources; Spearman of estimates and scores {correlation:.2f}\n")
    print("| source | score | SSIM | detail correlation | correlation |")
    print("| --- | --- | --- | --- | --- |")
    by_score = sorted(found, key=lambda item: -item[0].score)
    chosen = max(found[:FINALISTS], key=lambda item: item[0].score)
    rows = {"chosen": chosen, "best": by_score[0], "median": by_score[len(found) // 2], "worst": by_score[-1]}
    for name, (like, path) in rows.items():
        values = like.score, like.ssim_target, like.detail_correlation_target, like.correlation_target
        print(f"| {name}, {path.name} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + " |")


if __name__ == "__main__":
    main()
