"""What readers and models make of two files, pair by pair: what `vitnull check` runs."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from nullspace_cli.engine.comparison.down_and_up import down_and_up
from nullspace_cli.engine.comparison.input_change import by_readings, change_between, inputs_of, keyed
from nullspace_cli.engine.comparison.recompression import as_jpeg
from nullspace_cli.engine.errors import VitnullError
from nullspace_cli.engine.files.pictures import Picture, read_picture
from nullspace_cli.engine.files.two_readings import DifferenceNotice, Reading
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.nullspace.first_layer import ReadMap, reading_of
from nullspace_cli.engine.report.check import show_checked
from nullspace_cli.engine.report.gallery import Gallery
from nullspace_cli.engine.runtime.out_of_memory import within_memory
from nullspace_cli.engine.transforms.readers import Reader, spelled_out
from nullspace_cli.engine.watermark.verification import verify
from nullspace_cli.engine.workflows.failed_input import Failed
from nullspace_cli.engine.workflows.in_threads import in_threads

DEFAULT_READERS = (
    *(f"224/bicubic/{crop}" for crop in ("0.875", "0.9", "0.95", "1")),
    *("224/bilinear/0.875", "224/lanczos/0.875", "224/bicubic/squash"),
    *("256/bicubic/0.9", "256/bicubic/0.95", "384/bicubic/1"),
    *("224/torch-bicubic/0.875", "224/torch-bilinear/0.875"),
    *("224/torch-bicubic-aliased/0.875", "224/torch-bilinear-aliased/0.875"),
)
"""Readers to show where none are named: the eight transforms that most pretrained models of timm's have, and what
others do instead: another filter, no crop, tensors, no antialias."""


class PairFiles(NamedTuple):
    """Two files: one, and what has become of it."""

    source: Path
    result: Path


def default_readers() -> list[Reader]:
    return [spelled_out(text) for text in DEFAULT_READERS]


@dataclass(frozen=True)
class AnyModels:
    """The models of a run, however many."""

    models: Sequence[Model]

    def describe(self) -> dict[str, Any]:
        """The keys about the model that every JSON document carries: null of none, and of several."""
        if len(self.models) == 1:
            return self.models[0].describe()
        nothing = dict.fromkeys(("model", "weights", "weights_sha256", "data_config"))
        return {**nothing, "device": str(self.models[0].device) if self.models else "cpu"}


def checked_model(model: Model) -> dict[str, Any]:
    """The keys of JSON documents for one of several models, which share their device."""
    return {key: value for key, value in model.describe().items() if key != "device"}


@dataclass(frozen=True)
class Checker:
    """What all pairs of a run share.

    Attributes:
        readers: who is given both files.
        asked: the names of those among them whose input was asked to stay.
        models: who answers for both files; that their answers stay is asked, too.
        tolerance: by how many levels an input value may differ that is said to stay.
        jpeg: qualities at which each file is saved as a JPEG, besides.
        reading: by which files are read where one has to be chosen, and by which inputs were asked to stay.
        notice: is told what the user should know besides the results.
        gallery: where the pictures of a page are put; None for no page.
    """

    readers: Sequence[Reader]
    asked: frozenset[str] = frozenset()
    models: Sequence[Model] = ()
    tolerance: float = 0
    jpeg: Sequence[int] = ()
    reading: Reading = "timm"
    notice: Callable[[str], None] = lambda text: None
    gallery: Gallery | None = None

    @cached_property
    def _tell(self) -> DifferenceNotice:
        return DifferenceNotice(self.notice, self.reading)

    def each(self, pairs: Sequence[PairFiles], workers: int) -> Iterator[dict[str, Any] | Failed]:
        """The records of many pairs, in their order; one that fails does not stop the others."""
        return in_threads(self._tried, pairs, workers)

    def _tried(self, pair: PairFiles, stop: threading.Event | None) -> dict[str, Any] | Failed:
        try:
            return self(pair)
        except VitnullError as error:
            return Failed(pair.source, error)

    def __call__(self, pair: PairFiles) -> dict[str, Any]:
        """The record of one pair.

        Raises:
            VitnullError: a file cannot be read, or not by one of the readers, or a model does not answer.
        """
        started = time.monotonic()
        with within_memory(f"{pair.source} with {pair.result}"):
            source, result = (read_picture(path, self.reading) for path in pair)
            for picture in (source, result):
                picture.tell(self.notice)
                self._tell(str(picture.path), picture)
            readers = self._readers(source, result)
            models = [self._answers(model, source, result) for model in self.models]
            promises = [entry["verified"] for entry in (*readers, *models) if entry["verified"] is not None]
            same_size = (source.width, source.height) == (result.width, result.height)
            record = {
                "source": str(pair.source),
                "result": str(pair.result),
                "formats": {"source": source.format, "result": result.format},
                "sizes": {"source": [source.width, source.height], "result": [result.width, result.height]},
                "reading": self.reading,
                "pixels": keyed(change_between(source.pixels, result.pixels)) if same_size else None,
                "readers": readers,
                "models": models,
                "down_and_up": {
                    "source": down_and_up(source.pixels)._asdict(),
                    "result": down_and_up(result.pixels)._asdict(),
                },
                "verified": all(promises) if promises else None,
                "seconds": round(time.monotonic() - started, 3),
            }
            if self.gallery is not None:
                show_checked(self.gallery, record, self.readers, source, result)
            return record

    def _readers(self, source: Picture, result: Picture) -> list[dict[str, Any]]:
        """What each reader is given of both: those first whose input was asked to stay, then by how much changes."""
        saved = {quality: [as_jpeg(picture.pixels, quality) for picture in (source, result)] for quality in self.jpeg}
        entries = []
        for reader in self.readers:
            read, asked = reader.input_pixels, reader.name in self.asked
            before, after = inputs_of(read, source, result)
            changes = by_readings(read, source, result, (before, after))
            own = changes[self.reading]
            entries.append(
                {
                    "reader": reader.name,
                    **keyed(changes["timm"]),
                    **{f"{key}_shown": value for key, value in keyed(changes["shown"]).items()},
                    "jpeg": [
                        {
                            "quality": quality,
                            **{
                                name: keyed(change_between(before, read(pixels)))
                                for name, pixels in zip(("source", "result"), pair, strict=True)
                            },
                        }
                        for quality, pair in saved.items()
                    ],
                    "asked": asked,
                    "verified": own is not None and own.largest <= self.tolerance if asked else None,
                }
            )
        return sorted(entries, key=lambda entry: (not entry["asked"], entry["rms"], entry["reader"]))

    def _answers(self, model: Model, source: Picture, result: Picture) -> dict[str, Any]:
        """What a model says of both; nothing but its class, or an equal input, proves that its answer has stayed."""
        verdict = verify(model, self._first_layers[model.name], source, result)
        kept = verdict.changed == 0 if verdict.match is None else verdict.match
        return {"model": model.name, **asdict(verdict), "verified": kept}

    @cached_property
    def _first_layers(self) -> dict[str, ReadMap | None]:
        return {model.name: reading_of(model) for model in self.models}


def summarise(records: Sequence[Mapping[str, Any]], failed: int, elapsed: float) -> dict[str, Any]:
    """The figures over all pairs; None where there are none.

    Args:
        elapsed: seconds from the first pair to the last.
    """
    asked = [record["verified"] for record in records if record["verified"] is not None]
    return {
        "count": len(records),
        "failed": failed,
        "verified": sum(asked) if asked else None,
        "other_size": sum(record["sizes"]["source"] != record["sizes"]["result"] for record in records),
        "readers": [_over_all_of_reader(entries) for entries in _by_name(records, "readers", "reader")],
        "models": [_over_all_of_model(entries) for entries in _by_name(records, "models", "model")],
        "suspicious": {
            side: sum(record["down_and_up"][side]["suspicious"] for record in records) for side in ("source", "result")
        },
        "images_per_second": round(len(records) / elapsed, 3) if records and elapsed else None,
    }


Entry = Mapping[str, Any]


def _by_name(records: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[list[Entry]]:
    """The entries of each reader or model."""
    found: dict[str, list[Entry]] = {}
    for record in records:
        for entry in record[kind]:
            found.setdefault(entry[name], []).append(entry)
    return list(found.values())


def _over_all_of_reader(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "reader": entries[0]["reader"],
        "asked": entries[0]["asked"],
        "bit_identical": sum(entry["max"] == 0 for entry in entries),
        "mean_changed": fmean(entry["input_pixels_changed"] for entry in entries),
        "mean_rms": fmean(entry["rms"] for entry in entries),
        "max": max(entry["max"] for entry in entries),
    }


def _over_all_of_model(entries: Sequence[Entry]) -> dict[str, Any]:
    matches = [entry["match"] for entry in entries if entry["match"] is not None]
    changes = [entry["confidence_change"] for entry in entries if entry["confidence_change"] is not None]
    return {
        "model": entries[0]["model"],
        "matched": sum(matches) if matches else None,
        "match_percent": 100 * sum(matches) / len(matches) if matches else None,
        "mean_confidence_change": fmean(changes) if changes else None,
        "max_confidence_change": max(changes, default=None),
        "bit_identical": sum(entry["input_pixels_changed"] == 0 for entry in entries),
    }
