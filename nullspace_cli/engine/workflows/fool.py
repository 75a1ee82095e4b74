"""One pair from files to files: what `vitnull fool` runs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nullspace_cli.engine.adversarial.attack import Attack, AttackSolution
from nullspace_cli.engine.adversarial.report import Report, measured
from nullspace_cli.engine.documents.artefacts import Provenance, write_tensors
from nullspace_cli.engine.documents.kinds import FOOLED
from nullspace_cli.engine.files.hashes import sha256_of_each
from nullspace_cli.engine.files.pictures import Picture, encode_like, encode_png, encode_turned, write_picture
from nullspace_cli.engine.files.writing import FilesTogether
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.saliency.methods import Method
from nullspace_cli.engine.watermark.result import gain_of, shown_noise


class FoolFiles(NamedTuple):
    """Where the artefacts of one pair go; `exact`, the float image, only if it is wanted."""

    image: Path
    exact: Path | None
    noise: Path
    sheet: Path

    @classmethod
    def of(cls, folder: Path, source: str, target: str, *, exact: bool = True) -> "FoolFiles":
        stem = f"{source}.{target}"
        endings = ("fooled.png", "fooled.safetensors", "noise.png", "sheet.png")
        image, tensors, noise, sheet = (folder / f"{stem}.{ending}" for ending in endings)
        return cls(image, tensors if exact else None, noise, sheet)


@full_precision
def report(
    attack: Attack,
    result: AttackSolution,
    source: Picture,
    target: Path,
    files: FoolFiles,
    methods: Sequence[Method],
    *,
    tolerance: float = 0.01,
    force: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> Report:
    """Write the image, the exact solution and the noise, and measure what was written.

    Args:
        tolerance: largest embedding_error that passes verification: of the re-read file, or unbounded of the float
            image.
        notice: is told what of the source's metadata the image goes without.
    """
    native = attack.size == "native"
    data, lost = encode_like(source, result.pixels) if native else encode_turned(result.pixels, source.turn)
    if lost:
        notice(f"{files.image} goes without what {source.path} has: {', '.join(lost)}")
    noise = (result.image - result.source).permute(1, 2, 0).numpy()
    with FilesTogether(force=force) as written:
        saved = write_picture(written, files.image, data, result.pixels, source.reading)
        drawn = encode_png(source.turn.upright(shown_noise(noise)))
        written.write(files.noise, lambda path: path.write_bytes(drawn))
        if files.exact:
            written.write(files.exact, lambda path: _save(path, attack, result, source.path, target))
        done = measured(attack, result, source, saved, methods, tolerance)
    record = {
        "source": str(source.path),
        "target": str(target),
        **done.record,
        "noise_gain": gain_of(noise, 255),
        "artifacts": {name: str(path) if path else None for name, path in files._asdict().items()},
    }
    return replace(done, record=record)


def _save(path: Path, attack: Attack, result: AttackSolution, source: Path, target: Path) -> None:
    """Write `image`, the solution before rounding, `noise`, `source` and `target`, [3, H, W] in pixel space."""
    model = attack.network.model
    parameters = {
        "size": attack.size,
        "channels": attack.channels,
        "bounded": attack.bounded,
        "norm": attack.norm,
        "strength": result.strength,
        "nullspace": result.nullspace,
        "rounding": attack.rounding if attack.bounded else None,
    }
    parents = sha256_of_each({"source": source, "target": target, "basis": attack.network.basis})
    seed = attack.network.request.seed
    provenance = Provenance(FOOLED, "pixel", model.name, model.weights_sha256, seed, parameters, parents)
    tensors = {
        "image": result.image,
        "noise": result.image - result.source,
        "source": result.source,
        "target": result.target,
    }
    write_tensors(path, tensors, provenance, force=True)
