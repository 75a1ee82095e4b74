"""The only writer of files: safetensors with provenance, PNG, JSON. Every file appears whole or not at all."""

import errno
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from nullspace_cli.engine.files.paths import is_folder, is_stream, kind_of, reason_of, status
from nullspace_cli.engine.files.reading import MIB, open_regular

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


def sha256_of_each(files: Mapping[str, Path | None]) -> dict[str, str]:
    """The `parents` that a provenance names, of those files that there are."""
    return {name: sha256_of(path) for name, path in files.items() if path}


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path, *, force: bool) -> None:
    """Fail now rather than after the slow work: the folder is there and writable, and nothing would be lost.

    Raises:
        ArtifactError: `path` exists and `force` is not given, is a folder, a disk or a socket, or could not be written.
    """
    try:
        destination = _destination(path, force)
        if destination is None:
            return
        folder = destination.parent
        if not is_folder(folder):
            raise ArtifactError(f"Cannot write {path}: the folder {folder} does not exist. Create it first.")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def make_folder(path: Path) -> Path:
    """Create an output folder and its parents, if need be.

    Raises:
        ArtifactError: it cannot be created, or a file of that name is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot create the folder {path}: {reason_of(error)}. Name another.") from error
    return path


def _destination(path: Path, force: bool) -> Path | None:
    """The file that is to be replaced or made, at the end of links, as with `cp`; None for a stream, written as it is.

    Raises:
        ArtifactError: something is there that must not be overwritten.
        OSError: the path cannot be looked up.
    """
    found = status(path)
    if found and stat.S_ISDIR(found.st_mode):
        raise ArtifactError(f"Cannot write {path}: it is a folder. Give the name of a file.")
    if found and is_stream(path):
        return None
    if found and not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"Cannot write {path}: it is {kind_of(found)}. Give the name of a file.")
    if os.path.lexists(path) and not force:
        raise ArtifactError(f"{path} exists already. Use --force to overwrite it, or another name.")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    advice = {
        errno.ENAMETOOLONG: "Give it a shorter name",
        errno.ENOSPC: "Make room, or choose another folder",
        errno.EDQUOT: "Make room, or choose another folder",
        errno.ENXIO: "It is a pipe that nobody reads from: start its reader first",
    }
    choice = advice.get(error.errno or 0, "Choose another name or folder")
    return ArtifactError(f"Cannot write {path}: {reason_of(error)}. {choice}.")


@contextmanager
def _replacing(path: Path, force: bool) -> Iterator[Path]:
    """A temporary name beside `path`; moved into place when the block ends well, removed when it does not.

    What it holds is on the disk before it gets its name, and the name before this returns: whenever the power fails,
    the old file or the new one is there, whole.
    """
    # Its length does not depend on the file's: what fits into the folder's names fits beside it, too.
    temporary = path.with_name(f".vitnull-{secrets.token_hex(6)}.part")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # with the permissions of the umask
    try:
        yield temporary
        _sync(temporary)
        if force:
            if old := status(path):
                temporary.chmod(stat.S_IMODE(old.st_mode) & 0o777)  # whoever could not read it still cannot
            temporary.replace(path)
        else:
            _move_without_overwriting(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every system lets a folder be opened
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; a file system that knows no such thing goes without."""
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(file)


def _move_without_overwriting(temporary: Path, path: Path) -> None:
    """A hard link fails where a rename would silently overwrite what another process has just finished."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without hard links: claim the name, then fill it.
        path.touch(exist_ok=False)
        temporary.replace(path)


def write_file(path: Path, write: Callable[[Path], object], *, force: bool = False) -> Path:
    """Call `write` on a temporary name and move the result to `path`.

    At the end of a link it is the link's target that is replaced; an existing file's permissions stay. Into a device
    or a pipe the result is written, `force` or not: there is nothing to replace.

    Raises:
        ArtifactError: the file exists (and `force` is not given), or the system would not write it.
    """
    check_output(path, force=force)
    try:
        destination = _destination(path, force)
        if destination is None:
            _stream(path, write)
            return path
        with _replacing(destination, force) as temporary:
            write(temporary)
    except FileExistsError as error:
        raise ArtifactError(f"{path} was written by another process meanwhile; it was left as it is.") from error
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _stream(path: Path, write: Callable[[Path], object]) -> None:
    """Write a whole result into a device or a pipe, once there is one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result")
        write(file)
        # A pipe that nobody reads from would else keep us waiting for ever.
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.read_bytes())


def write_bytes(path: Path, data: bytes, *, force: bool = False) -> Path:
    return write_file(path, lambda temporary: temporary.write_bytes(data), force=force)


def write_json(path: Path, document: Any, *, force: bool = False) -> Path:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), force=force)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], provenance: Provenance, *, force: bool = False) -> Path:
    """Write tensors and their provenance as safetensors."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
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


def hash_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dictionary, independent of device and key order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
