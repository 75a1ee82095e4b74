"""Weights files (safetensors, pth, npz) into modules: every tensor or none, and no code run from the file.

What a file claims is held against the file and the module before anything is made of it: neither a header that lies nor
an archive that unfolds without end takes memory, and weights that are no finite floating-point numbers are refused by
name.
"""

import logging
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nullspace_cli.engine.documents.artefacts import check_header, is_finite
from nullspace_cli.engine.errors import ModelError, first_line
from nullspace_cli.engine.files.reading import require_regular

logger = logging.getLogger(__name__)

EXPECTED = "a .safetensors, .pth or .npz file of weights"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ROOM, SLACK = 16, 2**30
"""A file may hold so many times what the module does (moving averages and an optimiser's state, in double precision),
and so many bytes beside (the head of another data set)."""

FOLDER_NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
FOLDER_ENDINGS = (".safetensors", ".pth", ".pth.tar", ".bin")
"""Which file timm takes the weights of a folder from: the first name that is there, else the first ending."""


def require_file(path: Path) -> None:
    """Raises ModelError where there is no such weights file."""
    require_regular(path, EXPECTED, ModelError)


def weights_in(folder: Path) -> Path | None:
    """The file that timm takes the weights of a folder from."""
    named = (folder / name for name in FOLDER_NAMES)
    others = (path for ending in FOLDER_ENDINGS for path in sorted(folder.glob(f"*{ending}")))
    return next((path for paths in (named, others) for path in paths if path.exists()), None)


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load a weights file into a module, every tensor of it.

    timm's own key conversion for the architecture (other authors' names, other position grids) is tried where the names
    or shapes differ. The file's classifier is dropped where the model was built without one.

    Raises:
        ModelError: the file is missing, damaged, needs unpickling of code, or does not fit the architecture; or some of
            its weights are no finite floating-point numbers. The module is left as it was.
    """
    require_file(path)
    if path.suffix == ".npz":
        _load_npz(module, path)
        return
    state = _fitted(module, read_state(path, _allowance(module)))
    own = module.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or foreign or shapes:
        raise ModelError(
            f"{path} does not fit {type(module).__name__}: "
            + "; ".join(
                f"{len(names)} {what} ({_some(names)})"
                for what, names in (("tensors missing", missing), ("unknown", foreign), ("of another shape", shapes))
                if names
            )
            + ".",
            hint="Check the model and its `timm_kwargs` (img_size, num_classes, ...) against the file.",
        )
    require_floats(own, {name: value.dtype for name, value in state.items()}, path)
    state = {name: value.to(own[name].dtype) for name, value in state.items()}
    require_finite(state, str(path))
    module.load_state_dict(state)


def read_state(path: Path, allowance: int | None = None) -> dict[str, Tensor]:
    """The state dictionary in a weights file that is not npz, or the one that a training run has wrapped.

    Args:
        allowance: the most bytes that it may claim to hold.

    Raises:
        ModelError: it is damaged, needs unpickling of code, claims more than it may, or holds something else than
            tensors of whole or floating-point numbers.
    """
    from timm.models import load_state_dict

    size = require_regular(path, EXPECTED, ModelError)
    if allowance is not None and size > allowance:
        raise ModelError(f"{path} is of {size / 2**30:.1f} GiB, far more than the weights of this model. Check MODEL.")
    if path.suffix == ".safetensors":
        check_header(path, EXPECTED, ModelError)
    elif size and zipfile.is_zipfile(path):
        _refuse_unfolding(path, size)
    try:
        state = load_state_dict(str(path), weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        reason = first_line(error)
        if "weights_only" in reason:  # torch's own text would have the user lower the guard
            reason = "it holds more than tensors, and would have to run code"
        raise ModelError(f"{path} is not a readable weights file ({reason}). Nothing in it was executed.") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ModelError(f"{path} holds no dictionary of tensors. Expected a state dictionary.")
    odd = {name: _oddity(value) for name, value in state.items()}
    refused = [f"{name} ({why})" for name, why in odd.items() if why]
    if refused:
        raise ModelError(
            f"{path} holds weights of a kind that cannot be used: {_some(refused)}. Expected float16, bfloat16, "
            f"float32 or float64, without sparsity or quantisation."
        )
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if allowance is not None and claimed > allowance:
        raise ModelError(
            f"{path} claims to hold {claimed / 2**30:.1f} GiB of weights, far more than this model. Check it."
        )
    return state


def _oddity(value: Tensor) -> str | None:
    """Why a tensor is of no use as a weight."""
    if value.is_quantized:
        return "quantised"
    if value.layout != torch.strided:
        return "sparse"
    if value.device.type == "meta":
        return "without values"
    return None if value.dtype in (*FLOATS, *INTEGERS, torch.bool) else str(value.dtype).removeprefix("torch.")


def require_floats(own: Mapping[str, Tensor], types: Mapping[str, torch.dtype], path: Path) -> None:
    """Refuse whole numbers in place of weights, and the reverse: quantised weights, whose scale is elsewhere.

    Args:
        own: the module's tensors; those that the file has under other names are passed over.

    Raises:
        ModelError: a tensor of the file is of the other kind; it names the layers.
    """
    shared = own.keys() & types.keys()
    other = [name for name in shared if own[name].is_floating_point() != types[name].is_floating_point]
    if other:
        raise ModelError(
            f"{path} holds whole numbers in place of weights, or the reverse: {_some(other)}. Expected floats."
        )


def require_finite(state: Mapping[str, Tensor], whose: str) -> None:
    """Refuse weights that are not numbers: whatever were computed from them would be none either.

    Raises:
        ModelError: some are not; it names the layers.
    """
    broken = [name for name, value in state.items() if value.is_floating_point() and not is_finite(value)]
    if broken:
        raise ModelError(
            f"The weights of {whose} are not all finite numbers: {_some(broken)}. They are damaged, or too large for "
            f"single precision."
        )


def _allowance(module: nn.Module) -> int:
    held = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    return ROOM * held + SLACK


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


def _some(names: Iterable[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in sorted(names)]
    return ", ".join(name if len(name) <= 100 else f"{name[:97]}..." for name in shown[:3]) + (
        ", ..." if len(shown) > 3 else ""
    )


def _fitted(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with timm's conversion for this architecture, where needed, and without a classifier that it lacks."""

    def differs() -> bool:
        return {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in module.state_dict().items()}

    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if differs() and convert is not None:
        try:
            state = dict(convert(dict(state), module))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - timm's, of whatever kind
            return state  # not a file that timm knows to convert: the caller names what does not fit
    if getattr(module, "num_classes", 0) == 0:
        heads = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    return state


# JAX's archives of arrays


def _load_npz(module: nn.Module, path: Path) -> None:
    """By the architecture's own loader, which fills what it finds: see that this was everything.

    The module's tensors are made NaN beforehand, so that those which the loader has passed over can be told.
    """
    load = getattr(module, "load_pretrained", None)
    if load is None:
        raise ModelError(f"{type(module).__name__} cannot read .npz weights; expected .safetensors or .pth.")
    _check_arrays(path, _allowance(module))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        with torch.no_grad():
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.fill_(torch.nan)
        with _Watched(path) as archive:
            load(archive)
        state = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
        if missing := [name for name, value in state.items() if value.numel() and bool(value.isnan().all())]:
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: it has nothing for {len(missing)} tensors "
                f"({_some(missing)}).",
                hint="Check the model and its `timm_kwargs` (num_classes, ...) against the file.",
            )
        require_finite(state, str(path))
    except BaseException as error:
        module.load_state_dict(before)
        if isinstance(error, ModelError | MemoryError) or not isinstance(error, Exception):
            raise
        raise ModelError(
            f"{path} does not fit {type(module).__name__} ({first_line(error)}). Expected JAX weights."
        ) from error
    if unused := archive.unread():
        logger.warning("%s: %d of its arrays were not used (%s)", path, len(unused), _some(unused))


def _check_arrays(path: Path, allowance: int) -> None:
    """Read the headers of an archive's arrays.

    Raises:
        ModelError: it is no archive of arrays of floating-point numbers, or claims to hold too much.
    """
    claimed, odd = 0, []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    shape, dtype = _array_header(file)
                claimed += int(np.prod(shape, dtype=object)) * dtype.itemsize
                if dtype.kind != "f" or dtype.itemsize > 8:
                    odd.append(f"{entry.filename.removesuffix('.npy')} ({dtype})")
    except Exception as error:
        raise ModelError(f"{path} is not a readable .npz file ({first_line(error)}). Expected JAX weights.") from error
    if odd:
        raise ModelError(f"{path} holds weights of a kind that cannot be used: {_some(odd)}. Expected float32.")
    if claimed > allowance:
        raise ModelError(
            f"{path} claims to hold {claimed / 2**30:.1f} GiB of weights, far more than this model. Check it."
        )


def _array_header(file: Any) -> tuple[Sequence[int], "np.dtype[Any]"]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its arrays are in version {version} of NumPy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if any(size < 0 for size in shape):
        raise ValueError(f"an array has the shape {shape}")
    return shape, dtype


class _Watched:
    """An archive as a file that is open to be read, which remembers where reading began.

    timm hands what it is given to `numpy.load`, which takes an open file as well as a name.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._begun = path, path.open("rb"), set[int]()

    def __enter__(self) -> "_Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __repr__(self) -> str:
        return str(self._path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        self._begun.add(self._file.tell())
        return self._file.read(size)

    def unread(self) -> list[str]:
        """The arrays that nobody has asked for."""
        with zipfile.ZipFile(self._path) as archive:
            return [
                entry.filename.removesuffix(".npy")
                for entry in archive.infolist()
                if entry.header_offset not in self._begun
            ]
