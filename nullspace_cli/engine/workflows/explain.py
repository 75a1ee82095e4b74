"""Saliency maps of image files, as pictures and as files: what `vitnull explain` runs."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from nullspace_cli.engine import metrics
from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import SALIENCY
from nullspace_cli.engine.errors import MemoryShortError, VitnullError
from nullspace_cli.engine.files.hashes import sha256_of
from nullspace_cli.engine.files.pictures import Picture, encode_png, read_picture
from nullspace_cli.engine.files.two_readings import DifferenceNotice, Reading
from nullspace_cli.engine.files.writing import write_bytes
from nullspace_cli.engine.metrics import is_constant
from nullspace_cli.engine.models.classes import ground_truth, name_of
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.plots.heat_maps import overlay
from nullspace_cli.engine.runtime.distributed import Ranks
from nullspace_cli.engine.runtime.out_of_memory import in_chunks, within_memory
from nullspace_cli.engine.runtime.stages import stage
from nullspace_cli.engine.saliency.faithfulness import FaithfulnessOfMany
from nullspace_cli.engine.saliency.methods import Method, SaliencyMaps, upsampled
from nullspace_cli.engine.saliency.noise import NoiseComparison
from nullspace_cli.engine.transforms.eval_transform import from_8_bits, in_rgb
from nullspace_cli.engine.workflows.failed_input import Failed
from nullspace_cli.engine.workflows.in_threads import in_groups

if TYPE_CHECKING:
    from nullspace_cli.engine.report.gallery import Gallery

# Figures and pages are imported where they are made: one map of one photo needs neither, and would wait a second.

SHEET, MAPS = ".saliency.png", ".saliency.safetensors"
"""What the names of files end with."""

Pixels = UInt8[NDArray[np.uint8], "h w c"]
Maps = dict[str, Float[Tensor, "gh gw"]]


@dataclass(frozen=True)
class ExplainFiles:
    """The files of one image: what is read, and what is written, as far as it is wanted (`overlays` by method)."""

    source: Path
    overlays: Mapping[str, Path]
    sheet: Path | None = None
    tensors: Path | None = None

    @classmethod
    def of(cls, source: Path, stem: Path, methods: Sequence[str], *, pictures: bool, tensors: bool) -> "ExplainFiles":
        """Those called <stem>.<method>.png and so on."""
        overlays = {name: stem.with_name(f"{stem.name}.{name}.png") for name in methods} if pictures else {}
        sheet = stem.with_name(stem.name + SHEET) if len(overlays) > 1 else None
        return cls(source, overlays, sheet, stem.with_name(stem.name + MAPS) if tensors else None)

    def reading(self, source: Path) -> "ExplainFiles":
        """The same of another file."""
        return replace(self, source=source)

    def files(self) -> list[Path]:
        """All that is written."""
        return [*self.overlays.values(), *(path for path in (self.sheet, self.tensors) if path)]

    def only(self, methods: Sequence[Method]) -> "ExplainFiles":
        """The same without the pictures of other methods; one method needs no sheet."""
        overlays = {method.name: self.overlays[method.name] for method in methods if self.overlays}
        return replace(self, overlays=overlays, sheet=self.sheet if len(methods) > 1 else None)


class Explained(NamedTuple):
    """One image done.

    Attributes:
        source: its file.
        image: normalised, as the network reads it.
        explained: the class; None for a model without a head.
        maps: of each method by its name, on its own grid, float64.
        record: of the JSON document.
    """

    source: Path
    image: Float[Tensor, "c h w"]
    explained: int | None
    maps: Maps
    record: dict[str, Any]


class ExplainedBatch(NamedTuple):
    """Images, the classes that were explained (None without a head), the maps of each method, true classes if known."""

    images: Float[Tensor, "b c h w"]
    classes: Int[Tensor, " b"] | None
    maps: dict[str, Float[Tensor, "b gh gw"]]
    labels: Int[Tensor, " b"] | None

    @classmethod
    def of(cls, done: Sequence[Explained], labels: Mapping[Path, int] | None = None) -> "ExplainedBatch":
        indices = [item.explained for item in done if item.explained is not None]
        return cls(
            torch.stack([item.image for item in done]),
            torch.tensor(indices) if indices else None,
            {name: torch.stack([item.maps[name] for item in done]) for name in done[0].maps},
            torch.tensor([labels[item.source] for item in done]) if labels else None,
        )


@dataclass
class MapMeasures:
    """What is measured of the maps of all images, as far as it is wanted.

    Attributes:
        labels: the class of each image, where it is known.
        images: how many were measured so far.
    """

    model: Model
    faithfulness: FaithfulnessOfMany | None
    noise: NoiseComparison | None
    labels: Mapping[Path, int] | None
    images: int = 0

    @classmethod
    def of(
        cls,
        maps: SaliencyMaps,
        methods: Sequence[Method],
        sources: Sequence[Path],
        place: tuple[int, int] = (0, 1),
        *,
        faithfulness: bool,
        noise_rms: float | None,
        seed: int,
    ) -> "MapMeasures":
        """Measures of the model's `maps` of `sources`.

        Args:
            sources: all images that lie in folders, whoever measures them.
            place: of those that are measured here, by their numbers among all: the first, and the step to the next.
            faithfulness: whether pixels are taken away in the order of the maps.
            noise_rms: of the noises that maps are compared under, in [0, 1] pixels; None for no comparison.

        Raises:
            NoNullspaceError: noises are wanted, and the model has no exact null space to draw them from.
        """
        curves = FaithfulnessOfMany(maps.model, seed, place[0]) if faithfulness else None
        noise = NoiseComparison(maps, methods, noise_rms, seed, place) if noise_rms else None
        return cls(maps.model, curves, noise, labels_of(maps.model, sources) if faithfulness else None)

    def __bool__(self) -> bool:
        """Whether anything is wanted."""
        return self.faithfulness is not None or self.noise is not None

    def add(self, done: Sequence[Explained]) -> None:
        """Measure the maps of some more images."""
        if not done:
            return
        self.images += len(done)
        batch = ExplainedBatch.of(done, self.labels)
        if self.faithfulness:
            self.faithfulness.add(batch.images, batch.maps, batch.labels)
        if self.noise:
            self.noise.add(batch.images, batch.classes, batch.maps)

    def gather(self, ranks: Ranks) -> None:
        """Put together what all processes have measured; each of them comes to know of it."""
        self.images = sum(ranks.gather(self.images))
        if self.faithfulness:
            self.faithfulness.gather(ranks)
        if self.noise:
            self.noise.gather(ranks)

    def draw(self, path: Path, *, force: bool) -> None:
        """Draw the curves of faithfulness, if there are any."""
        if self.faithfulness and self.faithfulness.methods:
            from nullspace_cli.engine.plots.saliency import draw_faithfulness

            draw_faithfulness(path, self._title, self.faithfulness, force=force)

    def curves(self) -> str | None:
        """The same as an SVG."""
        if not (self.faithfulness and self.faithfulness.methods):
            return None

        from nullspace_cli.engine.plots.figure import svg_of
        from nullspace_cli.engine.plots.saliency import faithfulness_figure

        return svg_of(faithfulness_figure(self._title, self.faithfulness))

    @property
    def _title(self) -> str:
        return f"{self.model.name}, {self.images} images"

    def describe_noise(self) -> dict[str, Any] | None:
        """How alike maps stay under noise; None without images, of which there is nothing to say."""
        return self.noise.to_dict() if self.noise and self.images else None


@dataclass(frozen=True)
class Explainer:
    """What all images of a run share.

    Attributes:
        index: the class to explain; None for each image's own top-1.
        size: of the overlays: "model" for what the network sees, "native" for the whole image.
        force: whether existing files may be overwritten.
        group: images that are explained together, as far as memory allows.
        notice: is told where it does not, of what is doubtful in an image, and what else the user should know.
        reading: how the model is given the files.
        gallery: where the pictures of a page are put; None for no page.
    """

    model: Model
    methods: Sequence[Method]
    index: int | None = None
    size: Literal["model", "native"] = "model"
    force: bool = False
    group: int = 8
    notice: Callable[[str], None] = lambda text: None
    reading: Reading = "timm"
    gallery: "Gallery | None" = None

    @cached_property
    def _tell(self) -> DifferenceNotice:
        return DifferenceNotice(self.notice, self.reading)

    @cached_property
    def maps(self) -> SaliencyMaps:
        """One for all images."""
        return SaliencyMaps(self.model)

    def each(self, jobs: Iterable[ExplainFiles]) -> Generator[list[Explained | Failed], None, None]:
        """Explain many images, a group at a time, in their order; one that fails does not stop the others."""
        self.model.transform.require_pictures()
        for group in in_groups(jobs, self.group):
            yield self._together(group)

    def _together(self, jobs: Sequence[ExplainFiles]) -> list[Explained | Failed]:
        started = time.monotonic()
        done: dict[Path, Explained | Failed] = {}
        read: list[tuple[ExplainFiles, Picture, Pixels]] = []
        for job in jobs:
            try:
                stage(f"reading {job.source}")
                with within_memory(str(job.source)):
                    picture = read_picture(job.source, self.reading)
                    picture.tell(self.notice)
                    self._tell(str(job.source), picture)
                    read.append((job, picture, self.model.transform.input_pixels(picture.pixels)))
            except VitnullError as error:
                done[job.source] = Failed(job.source, error)
        looked: dict[int, tuple[Tensor, Tensor | None, int | None, Maps]] = {}

        def look(start: int, stop: int) -> None:
            images = self.model.transform.normalize(np.stack([seen for _, _, seen in read[start:stop]]))
            logits = self.model.in_full_precision()(images).logits
            classes = self._classes(logits)
            maps: dict[str, Tensor] = {}
            for method in self.methods:
                stage(f"{method.name} of {len(images)} images" if len(images) > 1 else method.name)
                maps[method.name] = self.maps(images, method, classes)
            for k, image in enumerate(images):
                own = {name: values[k] for name, values in maps.items()}
                index, answer = None if classes is None else int(classes[k]), None if logits is None else logits[k]
                looked[start + k] = image, answer, index, own

        def alone(index: int, reason: str) -> None:
            source = read[index][0].source
            done[source] = Failed(source, MemoryShortError(str(source), reason))

        in_chunks(look, len(read), self.group, self.notice, alone)
        for k, (image, logits, index, own) in looked.items():
            job, picture, seen = read[k]
            prediction = None if logits is None else self.model.answer(*metrics.top1(logits))
            try:
                stage(f"writing maps of {job.source}")
                with within_memory(str(job.source)):
                    record = self._write(job, picture, seen, own, index, prediction)
                done[job.source] = Explained(job.source, image, index, own, record)
            except VitnullError as error:
                done[job.source] = Failed(job.source, error)
        for item in done.values():
            if isinstance(item, Explained):
                item.record["seconds"] = round((time.monotonic() - started) / len(jobs), 3)
        return [done[job.source] for job in jobs]

    def _classes(self, logits: Float[Tensor, "b k"] | None) -> Int[Tensor, " b"] | None:
        if logits is None:
            return None
        return logits.argmax(1) if self.index is None else torch.full((len(logits),), self.index)

    def _write(
        self,
        job: ExplainFiles,
        picture: Picture,
        seen: Pixels,
        maps: Maps,
        index: int | None,
        prediction: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Write the files of one image; its record."""
        upright = picture.turn.upright
        shown = {name: upright(overlay(from_8_bits(seen), values)) for name, values in maps.items()}
        for name, path in job.overlays.items():
            pixels = shown[name] if self.size == "model" else upright(self._over_all(picture, maps[name]))
            write_bytes(path, encode_png(pixels), force=self.force)
        if job.sheet:
            from nullspace_cli.engine.plots.saliency import draw_saliency

            titles = {name: f"{name} (constant)" if is_constant(values) else name for name, values in maps.items()}
            titled = {titles[name]: picture for name, picture in shown.items()}
            draw_saliency(job.sheet, self._title(index, prediction), upright(in_rgb(seen)), titled, force=self.force)
        if job.tensors:
            parameters = {"source": job.source.name, "class": index, "methods": list(maps)}
            parents = {"source": sha256_of(job.source)}
            model = self.model
            about = Provenance(
                SALIENCY, "normalized", model.name, model.weights_sha256, model.seed, parameters, parents
            )
            write_tensors(job.tensors, maps, about, force=self.force)
        record = {
            "source": str(job.source),
            "prediction": prediction,
            "explained": None if index is None else {"class": index, "label": self.model.label(index)},
            "methods": {
                name: {
                    "overlay": str(job.overlays[name]) if name in job.overlays else None,
                    "grid": list(values.shape),
                    "range": [float(values.min()), float(values.max())],
                }
                for name, values in maps.items()
            },
            "sheet": str(job.sheet) if job.sheet else None,
            "float": str(job.tensors) if job.tensors else None,
            "seconds": None,
        }
        if self.gallery is not None:
            from nullspace_cli.engine.report.explain import show_explained

            show_explained(self.gallery, record, upright(in_rgb(seen)), shown)
        return record

    def _over_all(self, picture: Picture, values: Float[Tensor, "gh gw"]) -> Pixels:
        """A map over the whole image, at its own size; what the model's crop leaves out is grey."""
        transform = self.model.transform
        geometry = transform.geometry(picture.width, picture.height)
        on_crop = upsampled(values.abs()[None], geometry.crop)[0]
        (_, rows), (_, columns) = geometry.overlaps
        read = transform.seen_part(picture.width, picture.height, native=True)
        return overlay(from_8_bits(picture.pixels), on_crop[rows, columns], read)

    def _title(self, index: int | None, prediction: dict[str, Any] | None) -> str:
        if prediction is None:
            return f"{self.model.name}: features, no classes"
        title = f"{self.model.name}: {name_of(prediction)} {prediction['probability']:.1%}"
        if index == prediction["class"]:
            return title
        return f"{title}; explained: {name_of({'class': index, 'label': self.model.label(index or 0)})}"


def labels_of(model: Model, sources: Sequence[Path]) -> dict[Path, int] | None:
    """The class that each image's folder is named after; None where a folder's name is no class of the model."""
    folders = sorted({source.parent.name for source in sources})
    classes = ground_truth(model, folders, in_order=False).classes
    return None if classes is None else {source: classes[folders.index(source.parent.name)] for source in sources}
