"""Stability under noise over the noise's size (the paper's figures 2 and 3), from the documents of `vitnull eval`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.documents.commands.eval import Eval
from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.plots.figure import GREY, PALETTE, plain_ticks, save_figure
from nullspace_cli.engine.text import shortest

STYLES: dict[str, dict[str, Any]] = {
    "none": {"ls": "-", "marker": "o", "lw": 1.8, "ms": 5},
    "shuffle": {"ls": "--", "marker": "s", "lw": 1.2, "ms": 4, "mfc": "white"},
    "uniform": {"ls": ":", "marker": "^", "lw": 1.2, "ms": 4, "mfc": "white"},
}
"""By control: told apart by line and marker, so that colour is left to tell the models apart."""
SIZES = {"limit": "sampling limit", "sigma": "rms of noise from a nullspace, [0, 1] pixels"}
"""What says how large a noise is: of learned noise, and of noise that was drawn."""
NAMES = {"none": "the noise", "shuffle": "shuffled", "uniform": "uniform, same norm"}


class _Series(NamedTuple):
    """What one colour shows."""

    model: str
    noise_model: str
    kind: str
    level: str
    realised: bool
    rtol: float | None

    @property
    def label(self) -> str:
        whose = self.model if self.noise_model == self.model else f"{self.noise_model} → {self.model}"
        learned = f"{self.level} level" + (", in pixels" if self.realised else "")
        how = {"exact": "exact", "near": f"null to {shortest(self.rtol or 0)}"}.get(self.kind, learned)
        return f"{whose}, {how}"


def read_documents(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Documents that `vitnull eval --out` or `--json` wrote.

    Raises:
        ArtifactError: a file is not one.
    """
    return [_read(path) for path in paths]


def _read(path: Path) -> dict[str, Any]:
    expected = "what `vitnull eval --out` wrote"
    document = read_json(path, expected)
    if not isinstance(document, dict) or document.get("schema") != "vitnull/eval/1":
        raise ArtifactError(f"{path} is not a document of `vitnull eval`. Make one with `vitnull eval --out`.")
    Eval.read(document, f"{path}", hint="Make it again with `vitnull eval --out`.")
    return document


def draw_curves(path: Path, documents: Sequence[Mapping[str, Any]], *, force: bool = False) -> Path:
    """Write the figure of `curves_figure`."""
    return save_figure(path, curves_figure(documents), force=force)


def curves_figure(documents: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how well predictions match, and how far the outputs move, over the size of the noise.

    The size is the sampling limit of learned noise, the root mean square of noise from a nullspace, be it exact or
    near; each has a row of its own.
    Without a head there are features only: their cosine takes the place of the match. Bars are 95% intervals.

    Raises:
        ArtifactError: there is nothing to draw.
    """
    results = [(_series(document, result), result) for document in documents for result in document["results"]]
    sizes = {size: name for size, name in SIZES.items() if any(result[size] is not None for _, result in results)}
    if not sizes:
        raise ArtifactError("The documents of `vitnull eval` hold no results to draw.")
    headless = any(result["match_percent"] is None for _, result in results)
    colors = dict(zip(dict.fromkeys(series for series, _ in results), _cycle(len(results)), strict=False))
    figure = Figure(figsize=(10, 0.5 + 3.9 * len(sizes) + 0.22 * len(colors)), layout="constrained")
    rows = figure.subplots(len(sizes), 2, squeeze=False)
    for (left, right), (size, name) in zip(rows, sizes.items(), strict=True):
        chosen = [(series, result) for series, result in results if result[size] is not None]
        first = ("feature_cosine", "cosine of the features") if headless else ("match_percent", "same prediction, %")
        second = ("feature_mse", "squared change of the features") if headless else ("logit_mse", "mse of the logits")
        _draw(left, chosen, colors, size, first[0])
        _draw(right, chosen, colors, size, second[0])
        left.set(xlabel=name, ylabel=first[1])
        moved = any(result[second[0]] for _, result in chosen)  # noise of zeros moves nothing
        right.set(xlabel=name, ylabel=second[1], yscale="log" if moved else "linear")
        if moved:
            plain_ticks(right.yaxis, (result[second[0]] for _, result in chosen if result[second[0]]))
        if first[0] == "match_percent":
            left.set_ylim(-3, 103)
    handles = [Line2D([], [], color=color, lw=3, label=series.label) for series, color in colors.items()]
    shown = [control for control in STYLES if any(result["control"] == control for _, result in results)]
    handles += [Line2D([], [], color=GREY, label=NAMES[control], **STYLES[control]) for control in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _series(document: Mapping[str, Any], result: Mapping[str, Any]) -> _Series:
    told = {name: result[name] for name in ("noise_model", "kind", "level", "realised")}
    return _Series(document["model"], rtol=result.get("rtol"), **told)


def _cycle(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _draw(
    axes: Axes,
    results: Sequence[tuple[_Series, Mapping[str, Any]]],
    colors: Mapping[_Series, str],
    size: str,
    figure: str,
) -> None:
    for series, color in colors.items():
        for control, style in STYLES.items():
            points = sorted(
                (result[size], result[figure], result["match_ci95"])
                for key, result in results
                if key == series and result["control"] == control and result[figure] is not None
            )
            if not points:
                continue
            x, y, intervals = zip(*points, strict=True)
            axes.plot(x, y, color=color, **style)
            if figure == "match_percent" and control == "none":
                low, high = zip(*intervals, strict=True)
                axes.vlines(x, low, high, color=color, lw=1)
    axes.set_xscale("log")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = sorted({result[size] for _, result in results})
    axes.set_xticks(sizes, [shortest(value) for value in sizes], rotation=45 if len(sizes) > 6 else 0)
    axes.minorticks_off()
