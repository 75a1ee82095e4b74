"""Artefacts: safetensors with provenance, written, and checked when they are read."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nullspace_cli.engine.documents.base import describe, parse_json
from nullspace_cli.engine.documents.kinds import ARTEFACTS, Artefact, Table
from nullspace_cli.engine.errors import ArtifactError, VitnullError
from nullspace_cli.engine.files.reading import MIB, open_regular
from nullspace_cli.engine.files.writing import write_bytes

METADATA_KEY = "vitnull"
"""safetensors orders several metadata keys at random; with this single one, equal content gives equal bytes."""
MAX_HEADER = 16 * MIB
"""Bytes of a safetensors header that is read; ours have some thousand."""


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from: what it holds, of which weights, in which space, by which parameters.

    `space` is "pixel" (values of [0, 1] images), "normalized" (after mean and std) or "tokens" (patch embeddings).
    `parents` maps the name of each artefact that this one was made from to its sha256. `weights_sha256` is None where
    no weights played a part.
    """

    kind: str
    space: str
    model: str
    weights_sha256: str | None
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The document in an artefact's metadata.

        Raises:
            ValueError: it breaks the declaration of its kind, which is a bug.
        """
        document = {"schema": f"vitnull/{self.kind}/1", **asdict(self)}
        return ARTEFACTS[self.kind].checked(document, sort_keys=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], provenance: Provenance, *, force: bool = False) -> Path:
    """Write tensors and their provenance as safetensors.

    Raises:
        ArtifactError: the file cannot be written, or is there already and `force` is not given; or a tensor holds a
            value that is not finite, so that `read_tensors` would refuse it.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    broken = [name for name, tensor in on_cpu.items() if not is_finite(tensor)]
    if broken:
        raise ArtifactError(f"{path} was not written: its tensor {broken[0]} would hold values that are not finite.")
    data = save(on_cpu, {METADATA_KEY: provenance.to_json()})
    return write_bytes(path, data, force=force)


def read_provenance(path: Path, *kinds: str) -> Provenance:
    """The provenance in an artefact's header, which is checked; the tensors are not read.

    Raises:
        ArtifactError: there is no such file, it is damaged or not ours, or it holds none of `kinds`; or a key of its
            provenance, or a tensor that belongs to that, is missing or is not what it should be.
    """
    with _opened(path, kinds) as (_, provenance, _table):
        return provenance


def read_tensors(path: Path, kind: str, names: tuple[str, ...] | None = None) -> tuple[dict[str, Tensor], Provenance]:
    """Read the named tensors of an artefact of ours, or all that belong to its kind.

    A tensor that such an artefact need not have is left out of the answer where it is missing.

    Raises:
        ArtifactError: as `read_provenance`, or a tensor holds a value that is not finite.
    """
    with _opened(path, (kind,)) as (file, provenance, table):
        present = set(file.keys())
        tensors = {name: file.get_tensor(name) for name in table if name in present and (not names or name in names)}
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ArtifactError(f"{path}: its tensor {name} holds values that are not finite. Make it again.")
    return tensors, provenance


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are; without a copy of them."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


@contextmanager
def _opened(path: Path, kinds: tuple[str, ...]) -> Iterator[tuple[Any, Provenance, Table]]:
    """An artefact whose header has been checked: the open file, its provenance and the tensors that belong to it."""
    expected = f"a {' or a '.join(kinds)} that vitnull wrote"
    check_header(path, expected)
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a readable safetensors file ({error}). Make it again.") from error
    with file:
        artefact, document = _artefact(path, file.metadata() or {}, kinds, expected)
        table = artefact.tensors()
        _check_tensors(path, file, table)
        yield file, Provenance(**document), table


def check_header(path: Path, expected: str, error: type[VitnullError] = ArtifactError) -> None:
    """See that a file is a regular one and begins as safetensors does, with a header of a size that can be read.

    Raises:
        error: it does not.
    """
    with open_regular(path, expected, error) as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 0 < length <= size - 8:
        reason = "it is empty, cut off or of another kind"
    elif length > MAX_HEADER:
        reason = f"it claims to have a header of {length} bytes"
    else:
        return
    raise error(f"{path} is not a readable safetensors file: {reason}. Expected {expected}.")


def _artefact(
    path: Path, metadata: Mapping[str, str], kinds: tuple[str, ...], expected: str
) -> tuple[Artefact, dict[str, Any]]:
    """The provenance as it is declared, and as it stands in the file without `schema`."""
    if METADATA_KEY not in metadata:
        raise ArtifactError(f"{path} was not written by vitnull: it carries no provenance. Expected {expected}.")
    where = f"The provenance of {path}"
    document = parse_json(metadata[METADATA_KEY], where, expected)
    kind = document.get("kind") if isinstance(document, dict) else None
    declared = ARTEFACTS.get(kind) if isinstance(kind, str) else None
    if declared is None or document.get("schema") != f"vitnull/{kind}/1":
        raise ArtifactError(
            f"{path} was not written by vitnull, or by a later version: its provenance has the kind {describe(kind)}. "
            f"Expected {expected}."
        )
    if kind not in kinds:
        raise ArtifactError(f"{path} holds a {kind}; expected a {' or a '.join(kinds)}.")
    artefact = declared.read(document, where, hint="Make it again.")
    return artefact, {part.name: document[part.name] for part in fields(Provenance)}


def _check_tensors(path: Path, file: Any, table: Table) -> None:
    """Hold the header's names, types and shapes of tensors against those that are wanted."""
    present, sizes, groups = set(file.keys()), dict[str, int](), dict[str, bool]()
    for name, wanted in table.items():
        if name not in present:
            if wanted.group is None or groups.setdefault(wanted.group, False):
                raise ArtifactError(f"{path} lacks the tensor {name}. Make it again.")
            continue
        if wanted.group is not None and not groups.setdefault(wanted.group, True):
            raise ArtifactError(f"{path} has the tensor {name}, but not all that belong to it. Make it again.")
        entry = file.get_slice(name)
        dtype, shape = entry.get_dtype(), tuple(entry.get_shape())
        fits = dtype in wanted.dtypes and len(shape) == len(wanted.shape) and (len(shape) == 1 or 0 not in shape)
        for size, want in zip(shape, wanted.shape, strict=False):
            fits = fits and size == (sizes.setdefault(want, size) if isinstance(want, str) else want)
        if not fits:
            shown = ", ".join(f"{want} = {sizes[want]}" if want in sizes else str(want) for want in wanted.shape)
            raise ArtifactError(
                f"{path}: its tensor {name} is {dtype} of shape {list(shape)}; expected "
                f"{' or '.join(wanted.dtypes)} of shape [{shown}]. Make it again."
            )


def require_weights(path: Path, provenance: Provenance, model: str, weights_sha256: str) -> None:
    """Refuse an artefact that was made from other weights than those of the model it is used with."""
    if provenance.weights_sha256 != weights_sha256:
        raise ArtifactError(
            f"{path} was made from other weights, {provenance.model} sha256 {str(provenance.weights_sha256)[:12]}; "
            f"the model is {model} with sha256 {weights_sha256[:12]}. Make it again for this model."
        )
