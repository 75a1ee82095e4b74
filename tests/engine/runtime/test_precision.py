"""Full precision: what torch's settings are within it, in which threads, and after it; and who works within it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nullspace_cli.demo.drawing import draw
from nullspace_cli.engine.files.pictures import read_picture
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import find_basis
from nullspace_cli.engine.nullspace.check import check_basis
from nullspace_cli.engine.preimage.solver import PreimageSolver
from nullspace_cli.engine.runtime import precision
from nullspace_cli.engine.runtime.precision import ABOVE, OPERATIONS, full_precision
from nullspace_cli.engine.watermark.verification import verify, verify_inputs

newer_get = getattr(torch._C, "_get_fp32_precision_getter", None)
newer_set = getattr(torch._C, "_set_fp32_precision_setter", None)
needs_newer = pytest.mark.skipif(newer_get is None, reason="this torch has the older settings alone")


def older() -> tuple[str, bool, bool | str]:
    """The older settings, as users read them."""
    try:
        cudnn: bool | str = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        cudnn = "disagrees"
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, cudnn
    except RuntimeError:
        return "disagrees", False, cudnn


def newer() -> dict[tuple[str, str], str]:
    return {} if newer_get is None else {place: newer_get(*place) for place in (*ABOVE, *OPERATIONS)}


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Put torch's own defaults back, whatever the test has set."""
    yield
    if newer_set is not None:
        for place in ABOVE:
            newer_set(*place, "none")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    if newer_set is not None:
        for place in OPERATIONS:
            newer_set(*place, "tf32" if place in (("cuda", "conv"), ("cuda", "rnn")) else "none")


def put(**settings: str) -> Callable[[], None]:
    """Set the newer settings, as in cuda_matmul="tf32"."""

    def put() -> None:
        assert newer_set is not None
        for place, value in settings.items():
            newer_set(*place.split("_"), value)

    return put


def do_nothing() -> None:
    pass


SETTINGS = [
    do_nothing,
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    *(
        pytest.param(setting, marks=needs_newer)
        for setting in (
            put(generic_all="tf32"),
            put(generic_all="ieee"),
            put(cuda_all="tf32"),
            put(cuda_matmul="tf32"),
            put(cuda_conv="ieee"),
            put(mkldnn_matmul="bf16"),
            put(mkldnn_all="bf16", cuda_rnn="ieee", generic_all="tf32"),
        )
    ),
]


@pytest.mark.parametrize("change", SETTINGS)
def test_settings_during_and_after(change: Callable[[], None]) -> None:
    change()
    before = older(), newer()
    with full_precision:
        assert older() == ("highest", False, False)
        assert {newer()[place] for place in OPERATIONS if newer()} <= {"ieee"}
        assert torch.nn.functional.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item() == 4
        with full_precision:
            pass
        assert older() == ("highest", False, False)
    assert (older(), newer()) == before


@needs_newer
@pytest.mark.parametrize("first", ["none", "ieee"])
def test_what_was_inherited_is_inherited_again(first: str) -> None:
    put(generic_all=first, mkldnn_matmul="none")()
    with full_precision:
        pass
    put(generic_all="tf32")()
    assert {newer()[place] for place in OPERATIONS} == {"tf32"}


def test_it_is_restored_when_the_work_fails() -> None:
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), full_precision:
        raise KeyError
    assert older()[:2] == ("high", True)


def test_the_last_thread_to_leave_restores() -> None:
    torch.set_float32_matmul_precision("high")
    entered, leave = threading.Event(), threading.Event()

    @full_precision
    def work() -> None:
        entered.set()
        leave.wait(10)

    thread = threading.Thread(target=work)
    with full_precision:
        thread.start()
        assert entered.wait(10)
    assert older() == ("highest", False, False)  # the other is still within
    leave.set()
    thread.join(10)
    assert older() == ("high", True, True)


def test_a_callers_autocast_does_not_reach_in(device: torch.device) -> None:
    matrix = torch.full((2, 2), 1 + 2**-12, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        with full_precision:
            assert (matrix @ matrix).dtype == torch.float32
        assert (matrix @ matrix).dtype == torch.bfloat16


# Who works within it


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Of every product while somebody watches: whether the settings and autocast leave it its full precision."""
    seen: list[tuple[bool, bool]] = []
    forward = torch.nn.Module.__call__

    def watching(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, torch.nn.Linear | torch.nn.Conv2d):
            seen.append((older() == ("highest", False, False), torch.is_autocast_enabled("cpu")))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", watching)
    return seen


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(ModelRequest("demo", device="cpu", amp="bf16"))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    for i in range(2):
        Image.fromarray(draw("test", i, size=300)[0]).save(tmp_path / f"{i}.png")
    return tmp_path / "0.png", tmp_path / "1.png"


def test_loading_changes_nothing() -> None:
    torch.set_float32_matmul_precision("high")
    load_model(ModelRequest("demo", device="cpu"))
    assert older() == ("high", True, True)


@pytest.mark.gpu
def test_loading_onto_a_card_changes_nothing_either() -> None:
    load_model(ModelRequest("demo", device="cuda"))
    assert older() == ("highest", False, True)


def test_an_exact_model_is_exact_whatever_surrounds_it(model: Model, watched: list[tuple[bool, bool]]) -> None:
    torch.set_float32_matmul_precision("medium")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    alone = model.in_full_precision()(x).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.in_full_precision()(x).features, alone)
        check = check_basis(model, find_basis(model))
    assert set(watched) == {(True, False)}
    assert check.passed


def test_verification_is_never_under_autocast(
    model: Model, pair: tuple[Path, Path], watched: list[tuple[bool, bool]]
) -> None:
    patch_map = find_basis(model).patch_map
    pictures = [read_picture(path) for path in pair]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = verify(model, patch_map, pictures[0], pictures[1])
    assert found == verify(model.in_full_precision(), patch_map, pictures[0], pictures[1])
    assert set(watched) == {(True, False)}
    x = torch.stack([model.transform(picture.pixels) for picture in pictures])
    rounded = model(x)
    assert rounded.logits is not None
    assert verify_inputs(model, None, x).logit_mse != float(
        (rounded.logits[0] - rounded.logits[1]).double().square().sum()
    )


SMALL = ("--model", "demo-cnn")


@pytest.mark.parametrize(
    "command",
    [
        ("watermark", "0.png", "1.png", *SMALL, "--verify"),
        ("fool", "0.png", "1.png", *SMALL, "--size", "native", "--explain", "gradcam"),
        ("explain", "0.png", *SMALL, "--no-pictures"),
        ("fool", "0.png", "1.png", "--model", "demo", "--unbounded", "--strength", "1", "--explain", "gradient"),
    ],
)
def test_what_is_claimed_does_not_depend_on_amp(
    vitnull: Any, pair: tuple[Path, Path], command: tuple[str, ...]
) -> None:
    found = []
    for amp in ("none", "bf16"):
        document = vitnull(*command, "--amp", amp, "--json", "--force").document
        for record in document.get("images", [document]):
            record.pop("seconds", None)
        for key in ("seconds", "summary"):
            document.pop(key, None)
        found.append(document)
    assert found[0] == found[1]


def test_no_weights_no_difference(vitnull: Any, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A watermark by the resize alone loads no model; its products are full ones all the same."""
    seen, solve = [], PreimageSolver.__call__

    def watching(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(older())
        return solve(self, *args, **kwargs)

    monkeypatch.setattr(PreimageSolver, "__call__", watching)
    torch.set_float32_matmul_precision("high")
    vitnull("watermark", *pair, *SMALL, "--nullspace", "resize", "--out", "w.png")
    assert seen == [("highest", False, False)]
    assert older() == ("high", True, True)


def test_an_older_torch_has_the_older_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_get_fp32_precision_getter", raising=False)
    torch.set_float32_matmul_precision("medium")
    with precision.FullPrecision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
