"""JAX's archives of arrays (.npz) into modules, by the architecture's own loader.

What an archive claims is held against the module before anything is made of it.
"""

import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nullspace_cli.engine.errors import ModelError, first_line
from nullspace_cli.engine.models.weights_file import some

logger = logging.getLogger(__name__)


def load_jax_weights(
    module: nn.Module, path: Path, allowance: int, check: Callable[[Mapping[str, Tensor]], None]
) -> None:
    """By the architecture's own loader, which fills what it finds: see that this was everything.

    The module's tensors are made NaN beforehand, so that those which the loader has passed over can be told.

    Args:
        allowance: the most bytes that it may claim to hold.
        check: raises what is wrong with the values that were loaded.

    Raises:
        ModelError: it is damaged, or does not fit. The module is left as it was.
    """
    load = getattr(module, "load_pretrained", None)
    if load is None:
        raise ModelError(f"{type(module).__name__} cannot read .npz weights; expected a file of PyTorch's.")
    _check_arrays(path, allowance)
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
                f"({some(missing)}).",
                hint="Check the model and its `timm_kwargs` (num_classes, ...) against the file.",
            )
        check(state)
    except BaseException as error:
        module.load_state_dict(before)
        if isinstance(error, ModelError | MemoryError) or not isinstance(error, Exception):
            raise
        raise ModelError(
            f"{path} does not fit {type(module).__name__} ({first_line(error)}). Expected JAX weights."
        ) from error
    if unused := archive.unread():
        logger.warning("%s: %d of its arrays were not used (%s)", path, len(unused), some(unused))


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
        raise ModelError(f"{path} holds weights of a kind that cannot be used: {some(odd)}. Expected float32.")
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
