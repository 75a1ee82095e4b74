"""Weights files as one dictionary of tensors under dotted names; no code from them is run, no claim of theirs believed.

`{"teacher": {"backbone.cls_token": t}}` is read as `{"teacher.backbone.cls_token": t}`: how deep a training run has
nested its weights, and by which words, is for whoever fits them to a network. What is no tensor is passed over.
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nullspace_cli.engine.documents.artefacts import check_header
from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.documents.weights_index import WeightsIndex
from nullspace_cli.engine.errors import ModelError, first_line
from nullspace_cli.engine.files.reading import require_regular
from nullspace_cli.engine.models.refused_pickle import refusal
from nullspace_cli.engine.runtime.process import Shared

EXPECTED = "a .safetensors, .pth, .pt, .ckpt, .bin or .npz file of weights, or the .index.json of several"
INDEX = ".index.json"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MAX_ENTRIES = 10**6
"""Entries of the dictionaries in a file; nesting without end has more."""
MAX_DEPTH = 16
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What torch itself inserts into names, anywhere: by compiling, sharding and recomputing parts of a network."""

TRANSFORMERS_NAMES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
"""Where transformers writes weights, in the order in which it looks for them."""
FOLDER_NAMES = (
    *TRANSFORMERS_NAMES,
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
FOLDER_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")
"""Which file timm takes the weights of a folder from: the first name that is there, else the first ending. An index of
several it passes over."""


def require_file(path: Path) -> None:
    """Raises ModelError where there is no such weights file."""
    require_regular(path, EXPECTED, ModelError)


def weights_in(folder: Path) -> Path | None:
    """The file with the weights of a folder, or the index of several."""
    named = (folder / name for name in FOLDER_NAMES)
    others = (path for ending in FOLDER_ENDINGS for path in sorted(folder.glob(f"*{ending}")))
    return next((path for paths in (named, others) for path in paths if path.exists()), None)


def is_index(path: Path) -> bool:
    """Whether a file says which of several others weights are in."""
    return path.name.endswith(INDEX)


def files_of(path: Path) -> list[Path]:
    """A weights file; of an index, the files that it names as well.

    Raises:
        ModelError: the index is damaged.
    """
    return [path, *sorted(set(_shards(path).values()))] if is_index(path) else [path]


def read_weights(path: Path, allowance: int | None = None) -> dict[str, Tensor]:
    """All tensors in a weights file that is not npz, under the names of the dictionaries they lie in, joined by dots.

    Those of an archive are mapped, not read, where the system lets them be.

    Args:
        allowance: the most bytes that it may claim to hold.

    Raises:
        ModelError: it is damaged, needs unpickling of code, claims more than it may, or holds no named tensors.
    """
    held = _read_shards(path, allowance) if is_index(path) else _read_file(path, allowance)
    state: dict[str, Tensor] = {}
    for parts, tensor in _tensors_in(held, path):
        name = ".".join(part for part in ".".join(parts).split(".") if part not in WRAPPERS)
        if name in state:
            raise ModelError(f"{path} holds two tensors of the name {shown(name)}. Expected a state dictionary.")
        state[name] = tensor
    if not state:
        raise ModelError(f"{path} holds no dictionary of tensors. Expected a state dictionary.")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if allowance is not None and claimed > allowance:
        raise ModelError(
            f"{path} claims to hold {claimed / 2**30:.1f} GiB of weights, far more than this model. Check it."
        )
    return state


def require_usable(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that no weight can be made of.

    Raises:
        ModelError: some are; it names the layers.
    """
    odd = {name: _oddity(value) for name, value in state.items()}
    if refused := [f"{shown(name)} ({why})" for name, why in odd.items() if why]:
        raise ModelError(
            f"{path} holds weights of a kind that cannot be used: {some(refused)}. Expected float16, bfloat16, "
            f"float32 or float64, without sparsity or quantisation."
        )


def some(names: Iterable[str]) -> str:
    """The first of some names, short enough for a message."""
    ordered = sorted(names)
    return ", ".join(map(shown, ordered[:3])) + (", ..." if len(ordered) > 3 else "")


def shown(name: str) -> str:
    """A name from a file, short enough for a message and with nothing in it that is not to be seen."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 100 else f"{name[:97]}..."


def _oddity(value: Tensor) -> str | None:
    """Why a tensor is of no use as a weight."""
    if value.is_quantized:
        return "quantised"
    if value.layout != torch.strided:
        return "sparse"
    if value.device.type == "meta":
        return "without values"
    return None if value.dtype in (*FLOATS, *INTEGERS, torch.bool) else str(value.dtype).removeprefix("torch.")


def _tensors_in(held: Any, path: Path) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors in nested dictionaries, each with the keys that lead to it."""
    count = 0

    def within(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        nonlocal count
        count += 1
        if count > MAX_ENTRIES or len(keys) > MAX_DEPTH:
            raise ModelError(f"{path} nests dictionaries without end. Expected a state dictionary.")
        if isinstance(value, Tensor):
            yield keys, value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from within(inner, (*keys, str(key)))

    if isinstance(held, Mapping):
        yield from within(held, ())


def _read_file(path: Path, allowance: int | None) -> Any:
    """What a file holds, of whatever kind it is."""
    size = require_regular(path, EXPECTED, ModelError)
    if allowance is not None and size > allowance:
        raise ModelError(f"{path} is of {size / 2**30:.1f} GiB, far more than the weights of this model. Check MODEL.")
    archive = False
    if path.suffix == ".safetensors":
        check_header(path, EXPECTED, ModelError)
    elif size and zipfile.is_zipfile(path):
        archive = True
        _refuse_unfolding(path, size)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with _PLAIN_VALUES:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except MemoryError:
        raise
    except Exception as error:
        if refused := refusal(path, error):
            raise refused from error
        raise ModelError(
            f"{path} is not a readable weights file ({first_line(error)}). Nothing in it was executed."
        ) from error


def _read_shards(index: Path, allowance: int | None) -> dict[str, Tensor]:
    """The tensors of an index, each from the file that it names."""
    shards, state = _shards(index), dict[str, Tensor]()
    left = allowance
    for shard in sorted(set(shards.values())):
        try:
            size = require_regular(shard, EXPECTED, ModelError)
            held = _read_file(shard, left)
        except ModelError as error:
            raise ModelError(f"{index} names a file that cannot be read. {error.args[0]}", hint=error.hint) from error
        left = None if left is None else left - size
        found = {".".join(keys): tensor for keys, tensor in _tensors_in(held, shard)}
        if lacking := [name for name, file in shards.items() if file == shard and name not in found]:
            raise ModelError(f"{shard} lacks tensors that {index.name} says it has: {some(lacking)}.")
        state |= {name: tensor for name, tensor in found.items() if shards.get(name) == shard}
    return state


def _shards(index: Path) -> dict[str, Path]:
    """Which file each tensor of an index is in; they lie beside it."""
    document = read_json(index, "the index of a model's weights files", ModelError)
    names = WeightsIndex.read(document, f"{index}", ModelError).weight_map
    return {tensor: index.with_name(name) for tensor, name in names.items()}


def _refuse_unfolding(path: Path, size: int) -> None:
    """torch writes its archives uncompressed; what unfolds to more than the file holds was not written by it."""
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError):
        return  # torch says what is wrong with it
    if unfolded > size:
        raise ModelError(
            f"{path} is not a readable weights file (its {size} bytes unfold to {unfolded}). Nothing in it was "
            f"executed."
        )


class _PassedOver:
    """In place of options, paths and numbers of NumPy's, which training runs save beside their weights."""

    def __new__(cls, *_: object, **__: object) -> "_PassedOver":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


def _passed_over() -> list[Any]:
    """What stands for plain values in pickles: classes of their names, by which every version of torch knows them."""
    arrays = [f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")]
    paths = [f"pathlib{inner}.{kind}Path" for inner in ("", "._local") for kind in ("Posix", "Windows", "")]
    named = [name.rpartition(".") for name in ("argparse.Namespace", *arrays, *paths, "numpy.dtype", "numpy.ndarray")]
    return [type(name, (_PassedOver,), {"__module__": module}) for module, _, name in named]


_PLAIN_VALUES = Shared(lambda: torch.serialization.safe_globals(_passed_over()))
"""What may lie beside the weights of a training run: its options as argparse gives them, and plain values."""
