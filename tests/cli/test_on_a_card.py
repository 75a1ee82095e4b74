"""Every command from end to end on a CUDA device, beside the same on the CPU: nothing crashes, and the figures agree.

In CI the card is simulated (`tests/simulated_card`); `--device cuda` takes a real one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nullspace_cli.demo.drawing import CLASSES, draw
from nullspace_cli.engine.noise.trainer import Trainer
from tests.conftest import Outcome, Vitnull
from tests.made import write_noise

pytestmark = pytest.mark.gpu

TIMES = ("seconds", "images_per_second")
SOLVER = ("iterations", "gap", "residual", "excess")
"""What tells how a solver went, not what it found."""

Both = Callable[..., dict[str, Any]]


def alike(card: Any, cpu: Any, where: str, tolerance: float) -> None:
    """Compare two JSON documents."""
    if isinstance(cpu, dict):
        assert card.keys() == cpu.keys(), where
        for key, value in cpu.items():
            if key == "device":
                assert (card[key], value) in (("cuda:0", "cpu"), ("cuda", "cpu"), ("cpu", "cpu"))
            elif key not in TIMES + SOLVER:
                alike(card[key], value, f"{where}.{key}", tolerance)
    elif isinstance(cpu, list):
        assert len(card) == len(cpu), where
        for i, (a, b) in enumerate(zip(card, cpu, strict=True)):
            alike(a, b, f"{where}[{i}]", tolerance)
    elif isinstance(cpu, float):
        assert card == pytest.approx(cpu, rel=tolerance, abs=1e-3 * tolerance), where
    else:
        assert card == cpu, where


@pytest.fixture
def both(vitnull: Vitnull, tmp_path: Path) -> Both:
    """Run a command on the CPU and on the card; what it says and writes must agree. The document of the latter."""

    def tensors() -> dict[str, torch.Tensor]:
        files = sorted(tmp_path.rglob("*.safetensors"))
        return {f"{path.name}/{name}": value for path in files for name, value in load_file(path).items()}

    def both(*command: str | Path, expect: int = 0, tolerance: float = 1e-3) -> dict[str, Any]:
        found: list[Outcome] = []
        written = []
        for device in ("cpu", "cuda"):
            found.append(vitnull(*command, "--force", "--json", "--device", device, expect=expect))
            written.append(tensors())
        document = found[1].document
        alike(document, found[0].document, command[0] if isinstance(command[0], str) else "", tolerance)
        assert written[0].keys() == written[1].keys()
        for name, value in written[0].items():
            if value.is_floating_point() and not name.endswith("/basis"):  # unique up to a rotation only
                scale = float(value.double().abs().max()) if value.numel() else 0.0
                torch.testing.assert_close(
                    written[1][name],
                    value,
                    rtol=0,
                    atol=tolerance * scale,
                    msg=f"{name} differs",
                )
        return document

    return both


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of the demo's, three pictures each, to learn from and to look at."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        for i in range(30):
            pixels, label = draw(split, i, size=72)
            if label < 4:
                path = folder / split / CLASSES[label] / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder


def picture(path: Path, index: int = 3, size: tuple[int, int] = (90, 120), mode: str = "RGB") -> Path:
    """A drawing of (height, width); "LA" and "RGBA" are see-through at the left."""
    pixels = draw("test", index, size=max(size))[0][: size[0], : size[1]]
    image = Image.fromarray(pixels).convert(mode)
    if mode.endswith("A"):
        alpha = np.full(size, 255, np.uint8)
        alpha[:, : size[1] // 4] = 100
        image.putalpha(Image.fromarray(alpha))
    image.save(path)
    return path


@pytest.mark.parametrize("options", [(), ("--per-channel",), ("--space", "normalized", "--compact")])
def test_basis(both: Both, tiny_vit: tuple[str, ...], options: tuple[str, ...]) -> None:
    document = both("basis", *tiny_vit, *options)
    assert document["check"] is None or document["check"]["passed"]


def test_basis_of_a_cnn(both: Both) -> None:
    assert both("basis", "demo-cnn", expect=5)["nullity"] == 0


@pytest.mark.parametrize("options", [("--level", "encoder"), ("--level", "input", "--protocol", "paper-accum")])
def test_learn_noise(both: Both, tiny_vit: tuple[str, ...], data: Path, options: tuple[str, ...]) -> None:
    quick = ("--rounds", "2", "--fraction", "1", "--step-images", "5", "--batch-size", "4", "--stop-eps", "1e-9")
    both("learn-noise", *tiny_vit, "--data", data, *quick, "--limit", "0.5", "--limit", "1", *options)


def test_learning_goes_on(
    both: Both, vitnull: Vitnull, tiny_vit: tuple[str, ...], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted run has saved is restored onto the card."""
    quick = ("--rounds", "2", "--step-images", "5", "--out", "n.safetensors")
    command: tuple[str | Path, ...] = ("learn-noise", *tiny_vit, "--data", data, *quick)
    both(*command)
    whole = load_file("n.safetensors")
    Path("n.safetensors").unlink()
    step = Trainer._step

    def interrupted(self: Trainer, *what: Any) -> None:
        if self.done == 1:
            raise KeyboardInterrupt
        step(self, *what)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    arguments = (*command, "--no-preview", "--checkpoint-every", "1", "--device", "cuda")
    vitnull(*arguments, expect=130)
    monkeypatch.setattr(Trainer, "_step", step)
    vitnull(*arguments, "--resume")
    for name, value in load_file("n.safetensors").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise on the tokens and on the pixels of `tiny_vit`, and its basis."""
    from nullspace_cli.engine.models.loading import load_model
    from nullspace_cli.engine.models.model_request import ModelRequest
    from nullspace_cli.engine.noise.injection_sites import Level, injection_site
    from nullspace_cli.engine.nullspace.basis import find_basis
    from nullspace_cli.engine.nullspace.basis_file import save_basis

    folder = tmp_path_factory.mktemp("noises")
    arguments = {"depth": 1, "img_size": 64}
    model = load_model(ModelRequest("deit_tiny_patch16_224", pretrained=False, kwargs=arguments, device="cpu"))
    limits: dict[Level, float] = {"encoder": 4.0, "input": 2.0}
    for level, limit in limits.items():
        generator = torch.Generator().manual_seed(0)
        delta = limit * (2 * torch.rand(1, *injection_site(model, level).shape, generator=generator) - 1)
        write_noise(folder / f"{level}.safetensors", model, level, delta, limit)
    save_basis(folder / "basis.safetensors", model, find_basis(model), compact=True)
    return {name: folder / f"{name}.safetensors" for name in ("encoder", "input", "basis")}


def test_eval(both: Both, data: Path, noises: dict[str, Path], tiny_vit: tuple[str, ...]) -> None:
    options = ("--data", data, "--realise", "--controls", "shuffle,uniform", "--batch-size", "5")
    found = both("eval", *tiny_vit, "--noise", *noises.values(), *options)
    assert {record["kind"] for record in found["results"]} == {"learned", "exact"}
    assert any(record["realised"] for record in found["results"])
    both("eval", "demo-cnn", noises["input"], noises["basis"], "--data", data)  # made for another model


def test_eval_under_autocast(vitnull: Vitnull, data: Path, noises: dict[str, Path]) -> None:
    for amp in ("bf16", "fp16"):
        command = ("eval", "demo-cnn", noises["input"], "--data", data, "--count", "4", "--amp", amp, "--json")
        assert vitnull(*command, "--device", "cuda").document["results"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize(
    "options", [(), ("--nullspace", "patch"), ("--nullspace", "patch", "--rounding", "nearest", "--tolerance", "1")]
)
def test_watermark_at_native_size(
    both: Both, tiny_vit: tuple[str, ...], tmp_path: Path, logo: Path, mode: str, options: tuple[str, ...]
) -> None:
    source = picture(tmp_path / "photo.png", mode=mode)
    both(
        "watermark",
        source,
        logo,
        "--model",
        *tiny_vit,
        "--verify",
        "--float",
        "w.safetensors",
        "--min-legibility",
        "0",
        *options,
    )


def test_watermark_for_several_readers(both: Both, tiny_vit: tuple[str, ...], tmp_path: Path, logo: Path) -> None:
    source = picture(tmp_path / "photo.png", 0, (200, 260))
    readers = ("--for", "80/bilinear/0.9", "--for", "72/torch-bicubic/1", "--min-legibility", "0")
    (record,) = both("watermark", source, logo, "--model", *tiny_vit, *readers)["images"]
    assert all(reader["max"] <= 1 for reader in record["readers"])


@pytest.mark.parametrize("options", [("--norm", "1"), ("--norm", "2"), ("--norm", "2", "--rounding", "nearest")])
def test_watermark_at_model_size(
    both: Both, tiny_vit: tuple[str, ...], photo: Path, logo: Path, options: tuple[str, ...]
) -> None:
    document = both(
        "watermark", photo, logo, "--model", *tiny_vit, "--size", "model", "--float", "w.safetensors", *options
    )
    assert document["images"][0]["verified"]


def test_many_watermarks(both: Both, tiny_vit: tuple[str, ...], tmp_path: Path, logo: Path) -> None:
    """Groups of several sizes, in threads."""
    sizes = ((90, 120), (120, 90), (90, 120), (100, 100))
    files = [picture(tmp_path / f"{i}.png", i, size, "LA" if i == 2 else "RGB") for i, size in enumerate(sizes)]
    assert both("watermark", *files, logo, "--model", *tiny_vit, "--workers", "2", "--verify")["summary"]["count"] == 4
    assert (
        both("watermark", *files, logo, "--model", *tiny_vit, "--workers", "2", "--size", "model")["summary"]["count"]
        == 4
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--norm", "1"),
        ("--strength", "auto"),
        ("--unbounded",),
        ("--unbounded", "--norm", "1"),
        ("--unbounded", "--channels", "red"),
        ("--size", "native"),
    ],
)
def test_fool(both: Both, tiny_vit: tuple[str, ...], tmp_path: Path, options: tuple[str, ...]) -> None:
    source, target = (picture(tmp_path / f"{name}.png", i, (150, 190)) for i, name in enumerate(("source", "target")))
    strength = () if "--strength" in options or "red" in options else ("--strength", "1")
    document = both("fool", source, target, "--model", *tiny_vit, "--explain", "rollout,gradient", *strength, *options)
    assert document["verified"] or "--unbounded" in options


@pytest.mark.parametrize("size", ["model", "native"])
def test_fool_with_the_best_of_many_sources(both: Both, tmp_path: Path, tiny_vit: tuple[str, ...], size: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    for i in range(3):
        picture(folder / f"{i}.png", i, (100, 130))
    target = picture(tmp_path / "target.png", 7)
    options = ("--strength", "1", "--explain", "none", "--size", size)
    both("fool", "--sources", folder, target, "--model", *tiny_vit, *options)


@pytest.mark.parametrize(("cnn", "methods"), [(False, 11), (True, 5)])
def test_explain(both: Both, photo: Path, tiny_vit: tuple[str, ...], cnn: bool, methods: int) -> None:
    model = ("demo-cnn",) if cnn else tiny_vit
    document = both("explain", photo, "--model", *model, "--method", "all", "--size", "native")
    assert len(document["images"][0]["methods"]) == methods


def test_explain_measures(both: Both, data: Path, tiny_vit: tuple[str, ...]) -> None:
    options = ("--method", "rollout,gradient", "--faithfulness", "--compare-noise", "0.1", "--no-pictures")
    both("explain", data / "val" / CLASSES[0], "--model", *tiny_vit, *options)


@pytest.mark.slow
def test_demo(vitnull: Vitnull) -> None:
    document = vitnull("demo", "--images", "20", "--device", "cuda", "--json").document
    assert document["nullspace"]["check"]["passed"]
    assert all(record["verified"] for record in document["watermarks"])
    assert document["fool"]["verified"]
