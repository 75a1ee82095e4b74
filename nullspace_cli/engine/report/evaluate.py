"""The page of `vitnull eval`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from nullspace_cli.engine.data.datasets import ImageSet
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.evaluation.noises_under_test import Case
from nullspace_cli.engine.evaluation.stability import Evaluation
from nullspace_cli.engine.plots.curves import curves_figure
from nullspace_cli.engine.plots.figure import svg_of
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.report.parts import (
    UNKNOWN,
    Cell,
    Images,
    Mark,
    Page,
    Plot,
    Row,
    Section,
    Table,
    about,
    answer,
    counted,
    figures,
    number,
)
from nullspace_cli.engine.report.pictures import View, compared, encoded, thumbnail
from nullspace_cli.engine.text import shortest
from nullspace_cli.engine.transforms.eval_transform import EvalTransform, in_rgb, to_8_bits
from nullspace_cli.engine.watermark.result import Pixels, shown_noise

VIEWED = 100
"""Images that are read once more for their pictures: those whose answers moved most."""

CONTROLS = {"shuffle": "– its elements shuffled", "uniform": "– uniform, of its norm"}


def page(document: Mapping[str, Any], found: Evaluation, images: ImageSet, noises: Gallery, gallery: Gallery) -> Page:
    """All images and all noises of a run.

    Args:
        images: that were evaluated; the worst are read once more.
        noises, gallery: where the pictures of both are put meanwhile.
    """
    results = document["results"]
    own = [result for result in results if result["control"] == "none"]
    worst = min((r["match_percent"] for r in own if r["match_percent"] is not None), default=None)
    per_image = [list(records) for _, records in groupby(_under_noise(found), key=lambda record: record["image"])]
    shown = _pixel_cases(found)
    rows = [_show_image(gallery, records) for records in per_image]
    _show_worst(gallery, found, images, per_image, shown)
    listed = Images(
        ("Folder", "Before", "Under the noise that moves it most", "Predictions kept", "Logits moved (mse)"),
        rows,
        gallery,
        "those first whose answer moved most under a noise",
        f"Pictures are shown of the {VIEWED} whose answers moved most, as far as --report-size has room for them; "
        f"--per-image FILE has every image under every noise.",
    )
    return Page(
        "vitnull eval",
        _title(document["images"], worst, len(own)),
        "A small noise moves little, whatever it is: only beside its controls does a figure say anything.",
        [
            (f"{document['images']:,}", "images"),
            *([] if document["accuracy"] is None else [(f"{document['accuracy']:.1f}%", "accuracy without noise")]),
            *figures([(len(document["skipped"]) or None, "could not be read")], "bad"),
        ],
        [
            Section(
                "Under noise, and under its controls",
                plots=[Plot("", svg_of(curves_figure([document])), "Bars are 95% intervals.")] if results else [],
                tables=[results_table(results)],
            ),
            *_noises(noises, shown, found.model.transform),
            Section("The images", images=listed),
        ],
        [{"source": name, "error": "It could not be read, and was left out."} for name in document["skipped"]],
        about(
            document,
            ("Data", f"{document['data']}, {document['split']}"),
            ("Transform", document["transform"]),
            ("Reading", document["reading"]),
            ("Classes", document["ground_truth"]),
        ),
    )


def _title(count: int, worst: float | None, noises: int) -> str:
    """What the noise that moves most does."""
    images = counted(count, "image")
    if worst is None:
        return f"How far noise moves the features of {images}"
    noise = "noise" if noises == 1 else f"the worst of {noises} noises"
    return f"Under {noise}, {worst:.1f}% of {images} keep their prediction"


def results_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each noise and each of its controls."""
    rows: list[list[Cell]] = []
    for result in results:
        low, high = result["match_ci95"] or (None, None)
        size = f"limit {result['limit']:g}" if result["kind"] == "learned" else f"rms {result['sigma']:g}"
        own = result["control"] == "none"
        name = f"{Path(result['noise']).name}, {size}" + (", in pixels" if result["realised"] else "")
        rows.append(
            [
                name if own else CONTROLS[result["control"]],
                number(result["noise_norm"]),
                UNKNOWN if low is None else f"{result['match_percent']:.1f}% ({low:.1f} to {high:.1f})",
                number(result["logit_mse"]),
                number(result["feature_cosine"], ".4f"),
                number(result["confidence_change"], ".3f"),
                UNKNOWN if not result["accuracy"] else f"{result['accuracy']['noisy']:.1f}%",
            ]
        )
    header = ("Noise", "Norm", "Same prediction (95%)", "Logits, mse", "Features, cosine", "Confidence", "Accuracy")
    return Table("", header, rows, "Means over the images; logits are summed over the classes.")


def _under_noise(found: Evaluation) -> Iterator[dict[str, Any]]:
    return (record for record in found.per_image() if record["control"] == "none")


def _badness(records: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """How much an image's answers move: predictions lost, then logits, or features where there are none."""
    lost = sum(record["match"] is False for record in records)
    logits = max((record["logit_mse"] or 0 for record in records), default=0)
    return lost, logits, max((1 - (record["feature_cosine"] or 0) for record in records), default=0)


def _show_image(gallery: Gallery, records: Sequence[Mapping[str, Any]]) -> Row:
    """An image in the list, and its place there."""
    most = max(records, key=lambda record: (record["match"] is False, record["logit_mse"] or 0))
    lost = sum(record["match"] is False for record in records)
    name = str(most["image"])
    kept = f"{len(records) - lost} of {len(records)}"
    cells: list[Cell] = [
        most["label"] or UNKNOWN,
        answer(most["before"]),
        answer(most["after"]),
        UNKNOWN if most["match"] is None else Mark(kept, "bad" if lost else "good"),
        number(most["logit_mse"]),
    ]
    facts = [
        ("Folder", most["label"]),
        ("Without noise", most["before"] and answer(most["before"])),
        *((_called(record), record["after"] and answer(record["after"])) for record in records),
    ]
    return Row(name, cells, facts)


def _called(about: Mapping[str, Any]) -> str:
    size = f"limit {shortest(about['limit'])}" if about["limit"] is not None else f"rms {shortest(about['sigma'])}"
    return f"{Path(about['noise']).name}, {size}" + (", in pixels" if about["realised"] else "")


def _pixel_cases(found: Evaluation) -> list[Case]:
    """The noises that are added to the model's input, and so can be seen in it."""
    return [case for case in found.cases if case.control == "none" and case.noise.level == "input"]


def _show_worst(
    gallery: Gallery,
    found: Evaluation,
    images: ImageSet,
    per_image: Sequence[Sequence[Mapping[str, Any]]],
    cases: Sequence[Case],
) -> None:
    """Put every image by, and of the worst the pictures: what the model sees, without noise and with each."""
    positions = {images.name_of(index): index for index in range(len(images))}
    transform = found.model.transform
    for place, records in enumerate(sorted(per_image, key=_badness, reverse=True)):
        name = str(records[0]["image"])
        small, views = None, list[View]()
        if place < VIEWED:
            try:
                pixels = images.read(positions[name], transform).pixels
            except VitnullError:  # it could be read before
                continue
            small, views = thumbnail(_in_8_bits(pixels)), _noisy_views(pixels, cases, transform)
        gallery.add(name, _badness(records), small, views)


def _noisy_views(pixels: Any, cases: Sequence[Case], transform: EvalTransform) -> list[View]:
    seen = in_rgb(_in_8_bits(pixels))
    clean = transform.normalize(pixels)
    views = []
    for case in cases:
        noisy = transform.to_pixels(clean + case.noise.delta[0])
        name = _called(case.tested.describe())
        view, _ = compared(
            name if len(cases) > 1 else "Model input", ("without noise", seen), ("with it", in_rgb(to_8_bits(noisy))),
            f"With {name}, drawn clipped.",
        )  # fmt: skip
        views.append(view)
    return views or [View("Model input", "Its noise is added after this.", (encoded("model input", seen),))]


def _in_8_bits(pixels: Any) -> Pixels:
    """Pixels as an image set gives them: 8 bits, or floats in [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels
    eight: Pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return eight


def _noises(gallery: Gallery, cases: Sequence[Case], transform: EvalTransform) -> list[Section]:
    """The noises themselves, as far as they are pixels."""
    rows = []
    for case in cases:
        pixels = transform.delta_to_pixels(case.noise.delta[0]).permute(1, 2, 0).numpy()
        name, largest = _called(case.tested.describe()), float(np.abs(pixels).max())
        picture = in_rgb(shown_noise(pixels))
        said = f"Mid-grey is no change; black and white are {largest:.3g} of the range of pixels."
        gallery.add(name, (), thumbnail(picture), [View("Noise", said, (encoded("noise", picture),))])
        rows.append(Row(name, (number(case.noise.norm),), [("Norm", number(case.noise.norm))]))
    if not rows:
        return []
    return [
        Section(
            "The noises",
            images=Images(("Norm",), rows, gallery, "as they are added to the model's input", noun="noise"),
        )
    ]
