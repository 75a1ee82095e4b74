"""Print the census of docs/nullspaces.md: `python examples/first_layers.py FILE.jsonl [MODEL...]`.

How each of timm's architectures reads the image, how much room counting leaves, and how much there is with random
weights; trained ones can only have more. FILE.jsonl takes one line an architecture; those that it has already are
passed over, so that the walk can be interrupted, and a second process can start from the other end (`--backwards`).

Networks are built without weights, on PyTorch's meta device, and their passes stopped once nothing has touched the
image for a long while. What has room, or is no plain convolution, is built: with random weights in the first layers, up
to which the pass goes; the large tensors behind them are left as memory gives them. Of the latter one is built for all
that are alike.
"""

import argparse
import json
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nullspace_cli.engine.models.reading_tape import Recorder, Tape
from nullspace_cli.engine.models.stem import Stem, stem_of
from nullspace_cli.engine.nullspace.decomposition import count_rank
from nullspace_cli.engine.nullspace.nullity import find_nullity

ENOUGH = 400
"""Operations without the image, after which no network reads it any more."""
LARGE = 1 << 22
"""Numbers in tensors that are not worth filling: kernels that read an image have fewer."""

MANY = 110_000
"""Outputs of several grids of an image, beyond which their rank takes too long to count for a census."""


class ReadError(Exception):
    """The image was read: the rest of the pass is of no interest."""


class Hasty(Recorder):
    """Stops a pass once nothing has touched the image for a while."""

    def __init__(self, module: nn.Module, image: Tensor, enough: int) -> None:
        super().__init__(module, image)
        self.enough, self.idle, self.longest = enough, 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._count
        result = super().__torch_function__(func, types, args, kwargs)
        if self._count > before:
            self.longest, self.idle = max(self.longest, self.idle), 0
        elif self.readers:
            self.idle += 1
        if self.idle > self.enough:
            raise ReadError
        return result


class Unfilled(TorchFunctionMode):
    """Leaves large tensors as they were allocated."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        first = next(iter((*args, *kwargs.values())), None)
        if name.endswith("_") and not name.startswith("__") and isinstance(first, Tensor) and first.numel() > LARGE:
            return first
        return func(*args, **kwargs)


def tape_of(module: Any, enough: int = ENOUGH) -> tuple[Tape, int]:
    """How a network reads the image, and how many operations lie at most between two that touch it."""
    image = torch.zeros(1, *module.pretrained_cfg["input_size"], device=next(module.parameters()).device)
    with Hasty(module.eval().requires_grad_(), image, enough) as recorder, suppress(ReadError):
        module(image)
    return recorder.tape(), recorder.longest


def row_of(name: str) -> dict[str, Any]:
    """How an architecture reads the image: kind, numbers of the image, numbers that its first layers make of them."""
    with torch.device("meta"):
        tape, longest = tape_of(timm.create_model(name))
    if tape.steps != tape.readers or len(tape.readers) != 1 or tape.readers[0].operation is not F.conv2d or tape.stray:
        shapes = [[arg.shape if isinstance(arg, Tensor) else arg for arg in step.args] for step in tape.steps]
        alike = repr([tape.input_size, [str(step.operation) for step in tape.steps], shapes])
        return {"name": name, "size": tape.input_size, **tested(alike, name, tape, longest)}
    layer = tape.readers[0]
    image = torch.empty(1, *tape.input_size, device="meta")
    outputs = layer.operation(image, *layer.args[1:], **layer.kwargs)[0]
    (d, n, kh, kw), stride = layer.args[1].shape, tuple(layer.args[3])
    windows = outputs.shape[1:] == (tape.input_size[1] // kh, tape.input_size[2] // kw)
    kind = "patch" if (kh, kw) == stride and windows and n == image.shape[1] else "affine"
    place = [n * stride[0] * stride[1], d]
    row = {
        **{"name": name, "size": tape.input_size, "kind": kind, "reason": ""},
        **{"inputs": image.numel(), "outputs": outputs.numel(), "place": place},
    }
    return {**row, "nullity": nullity_of(built(name, longest)) if has_room(row) else 0}


def built(name: str, longest: int) -> Stem:
    """The first layers, with random weights."""
    with Unfilled():
        module = timm.create_model(name)
    return stem_of(tape_of(module, longest)[0], name)


def nullity_of(stem: Stem) -> int | None:
    """What the tool itself finds, of a patch or of the image; None of what is not affine, or would take hours here."""
    if stem.weight is not None:
        matrix = stem.weight.flatten(1)
        return matrix.shape[1] - count_rank(torch.linalg.svdvals(matrix), stem.stored_eps)
    if stem.image_map is None or (len(stem.image_map.branches) > 1 and stem.image_map.outputs > MANY):
        return None
    return find_nullity(stem.image_map, stem.stored_eps).nullity


SEEN: dict[str, dict[str, Any]] = {}


def tested(alike: str, name: str, tape: Tape, longest: int) -> dict[str, Any]:
    """What the tool itself finds, with random weights."""
    if alike not in SEEN:
        stem = built(name, longest)
        about: dict[str, Any] = dict.fromkeys(("inputs", "outputs", "place"))
        about |= {"kind": stem.kind, "reason": stem.reason}
        if stem.image_map:
            about |= {"inputs": stem.image_map.inputs, "outputs": stem.image_map.outputs}
            if stem.weight is not None:
                about["place"] = [stem.weight[0].numel(), len(stem.weight)]
            elif len(stem.image_map.branches) == 1 and not stem.image_map.branches[0].resize:
                branch = stem.image_map.branches[0]
                about["place"] = [branch.kernel.shape[1] * branch.stride[0] * branch.stride[1], len(branch.kernel)]
        SEEN[alike] = about | {"nullity": nullity_of(stem) if has_room(about) else 0}
    return SEEN[alike]


def has_room(row: dict[str, Any]) -> bool:
    """Whether there are fewer outputs than inputs; of a patch where there are patches."""
    inputs, outputs = row["place"] if row["kind"] == "patch" else (row["inputs"] or 0, row["outputs"] or 0)
    return bool(outputs < inputs)


def summary(rows: list[dict[str, Any]]) -> None:
    """Counts by kind, and what has room: families of equal numbers in one line."""
    counts = Counter((row["kind"], has_room(row)) for row in rows)
    print("| first layers | architectures | with room by counting |")
    print("| --- | --- | --- |")
    for kind in ("patch", "affine", "not_affine"):
        print(f"| {kind} | {counts[kind, True] + counts[kind, False]} | {counts[kind, True]} |")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in filter(has_room, rows):
        groups.setdefault((row["kind"], *(row["place"] or (row["inputs"], row["outputs"]))), []).append(row)
    print("\n| kind | numbers → outputs | free | nullity found | families |")
    print("| --- | --- | --- | --- | --- |")
    for (kind, inputs, outputs), alike in sorted(groups.items(), key=lambda item: (item[0][0] != "patch", ratio(item))):
        found = " or ".join(map(str, sorted({row["nullity"] for row in alike if row["nullity"]}))) or "-"
        families = Counter(row["name"].partition("_")[0] for row in sorted(alike, key=lambda row: str(row["name"])))
        named = ", ".join(f"{family} {number}" if number > 1 else family for family, number in families.items())
        print(f"| {kind} | {inputs} → {outputs} | {1 - outputs / inputs:.0%} | {found} | {named} |")
    for row in rows:
        if row["kind"] == "not_affine":
            print(f"\n{row['name']}: {row['reason']}")


def ratio(group: tuple[tuple[Any, ...], Any]) -> float:
    (_, inputs, outputs), _ = group
    return float(outputs / inputs)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The rows by architecture: two processes may have come by the same one."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["name"]: row for row in rows}


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--backwards", action="store_true", help="start from the other end")
    options = parser.parse_args()
    path, wanted = options.file, options.models or timm.list_models()
    for name in reversed(wanted) if options.backwards else wanted:
        if name not in read(path):
            with path.open("a") as file:
                file.write(json.dumps(row_of(name)) + "\n")
    summary([row for name, row in read(path).items() if name in set(wanted)])


if __name__ == "__main__":
    main()
