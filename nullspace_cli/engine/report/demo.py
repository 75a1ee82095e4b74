"""The page of `vitnull demo`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.report import evaluate, explain, fool, watermark
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import MEGABYTE, Page, Plot, Section, Table, about, number
from nullspace_cli.engine.report.pictures import Encoded

ROOM = 20 * MEGABYTE
"""For the pictures of each part: more than they take."""


class DemoGalleries(NamedTuple):
    """Where the pictures of each part are put by."""

    native: Gallery
    watermarks: Gallery
    fooled: Gallery
    vit: Gallery
    cnn: Gallery

    @classmethod
    def beside(cls, folder: Path) -> "DemoGalleries":
        return cls(*(Gallery(folder, ROOM) for _ in cls._fields))


def page(document: Mapping[str, Any], galleries: DemoGalleries) -> Page:
    """All that the demo shows, in its order."""
    space, accuracy, match = document["nullspace"], document["accuracy"], document["noise"]["match_percent"]
    native, learned = document["native"], document["learned_noise"]
    files = {Path(name).name: Path(name) for name in document["artifacts"]}
    vit, cnn = document["explain"]
    return Page(
        "vitnull demo",
        "What a vision transformer cannot see",
        "A small ViT and a ResNet, both trained on drawings and part of the package, show the whole chain.",
        [
            (f"{accuracy['demo']:.1f}%", "accuracy of the ViT"),
            (f"{space['nullity']:,} of {space['patch_dim']:,}", "directions of a patch that it cannot see"),
            (f"{match['demo']['null']:.1f}%", "predictions kept under null noise"),
            (f"{match['demo']['random']:.1f}%", "under random noise of the same norm"),
        ],
        [
            watermark.section(
                [native],
                galleries.native,
                "A watermark at the picture's own size",
                "People see it. Of what the model is given, not a bit has changed."
                if native["input_pixels_changed"] == 0
                else "People see it; the model is given nearly what it was given before.",
            ),
            watermark.section(
                document["watermarks"],
                galleries.watermarks,
                "Watermarks at the model's size",
                "Nothing is resized here: the change lies in the nullspace of the patch embedding, as in the paper.",
            ),
            fool.section(
                document["fool"],
                galleries.fooled,
                "One drawing that the model takes for another",
                "Its outlines are the target's; its patch embeddings, and so its saliency maps, are the source's.",
            ),
            explain.section([vit], galleries.vit, "Where the ViT looks"),
            explain.section([cnn], galleries.cnn, "Where the ResNet looks"),
            Section(
                "The nullspace",
                f"The ViT reads the {space['patch_dim']:,} numbers of a patch by a matrix of rank {space['rank']:,}.",
                plots=[
                    Plot("", _drawn(files["demo.basis.png"]), "Its singular values, and patches that it cannot see.")
                ],
                tables=[_noise(document)],
            ),
            Section(
                "Noise that was learned",
                f"On the patch embeddings, from {learned['images']:,} training images, beside controls of its norm.",
                plots=[Plot("", _drawn(files["demo.encoder.loss.png"]))],
                tables=[evaluate.results_table(learned["results"])],
            ),
        ],
        about=about(document),
    )


def _noise(document: Mapping[str, Any]) -> Table:
    match = document["noise"]["match_percent"]
    rows = [
        [
            name,
            number(document["accuracy"][name], ".1f"),
            number(match[name]["null"], ".1f"),
            number(match[name]["random"], ".1f"),
        ]
        for name in match
    ]
    return Table(
        "Predictions kept, %",
        ("Model", "Accuracy, %", "Null noise", "Random noise"),
        rows,
        f"{document['images']:,} validation images, noise of rms {document['noise']['std']:g} in [0, 1] pixels, added "
        f"to the input of both.",
    )


def _drawn(path: Path) -> Encoded:
    """A figure that was written."""
    picture = read_picture(path)
    return Encoded(path.name, (picture.width, picture.height), "png", path.read_bytes())
