"""The simulated card: what a real one refuses, what it allows, what is counted, and that nothing of it stays."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.simulated_card import Traffic, simulated_card
from tests.simulated_card.patches import _attributes

Pair = Callable[[Tensor, Tensor], object]
TWO_DEVICES = "Expected all tensors to be on the same device"


@pytest.fixture
def there(traffic: Traffic) -> Tensor:
    return torch.tensor([1.0, 2.0, 3.0], device="cuda")


@pytest.fixture
def here() -> Tensor:
    return torch.tensor([10.0, 20.0, 30.0])


def test_a_tensor_says_where_it_is(there: Tensor, here: Tensor) -> None:
    assert (there.device, there.is_cuda, there.is_cpu, there.get_device()) == (torch.device("cuda:0"), True, False, 0)
    assert (here.device, here.is_cuda, here.is_cpu) == (torch.device("cpu"), False, True)
    assert there.type() == "torch.cuda.FloatTensor"
    assert str(there) == "tensor([1., 2., 3.], device='cuda:0')"
    assert f"{there[1]:.1f}" == "2.0"
    assert torch.zeros(2, device=0).is_cuda
    assert torch.cuda.is_available()
    assert (torch.cuda.device_count(), torch.cuda.current_device()) == (1, 0)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b: a + b,
        lambda a, b: b * a,
        lambda a, b: a @ b,
        lambda a, b: torch.cat([a, b]),
        lambda a, b: torch.stack([a, b]),
        lambda a, b: torch.where(a > 0, b, a),
        lambda a, b: a.clamp(b, b),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: a.add_(b),
        lambda a, b: b.add_(a),
        lambda a, b: b[0].add_(a[0]),  # a number there cannot change one here
        lambda a, b: a.__iadd__(b),
        lambda a, b: torch.equal(a, b),
        lambda a, b: a.index_select(0, torch.tensor(0)),
        lambda a, b: a.gather(0, torch.tensor([0])),
        lambda a, b: a.__setitem__(torch.tensor([0, 1]), b[:2]),
        lambda a, b: a.index_put_((torch.tensor([0, 1]),), b[:2]),
        lambda a, b: nn.functional.linear(a, torch.zeros(2, 3)),
        lambda a, b: nn.Linear(3, 2)(a),
        lambda a, b: nn.Linear(3, 2).cuda()(b),
        lambda a, b: torch.sparse.mm(torch.eye(3).to_sparse().cuda(), torch.eye(3)),
        lambda a, b: torch.from_numpy(np.zeros(3, np.float32)) * a,
        lambda a, b: torch.einsum("i,i->", a, b),
        lambda a, b: torch.addmm(a.new_zeros(2, 2), a.new_zeros(2, 2), torch.zeros(2, 2)),
    ],
)
def test_two_devices_in_one_operation_are_refused(there: Tensor, here: Tensor, mixed: Pair) -> None:
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        mixed(there, here)


@pytest.mark.parametrize(
    ("refused", "error", "words"),
    [
        (lambda a, b: a.numpy(), TypeError, "can't convert cuda:0 device type tensor to numpy"),
        (lambda a, b: np.asarray(a), TypeError, "can't convert cuda:0 device type tensor to numpy"),
        (lambda a, b: np.add(a, 1), TypeError, "can't convert cuda:0 device type tensor to numpy"),
        (lambda a, b: np.from_dlpack(a), RuntimeError, "Unsupported device"),
        (lambda a, b: a.pin_memory(), RuntimeError, "cannot pin 'torch.cuda.FloatTensor'"),
        (lambda a, b: torch.add(a, a, out=b), RuntimeError, "Expected out tensor to have device cuda:0, but got cpu"),
        (lambda a, b: torch.add(b, b, out=a), RuntimeError, "Expected out tensor to have device cpu, but got cuda:0"),
        (lambda a, b: b[a.long() - 1], RuntimeError, "indices should be either on cpu or on the same device"),
        (lambda a, b: b[a > 1], RuntimeError, "indices should be either on cpu or on the same device"),
        (lambda a, b: a.to("cuda:1"), RuntimeError, "invalid device ordinal"),
        (
            lambda a, b: torch.randn(3, generator=torch.Generator(), device="cuda"),
            RuntimeError,
            "Expected a 'cuda' device type for generator but found 'cpu'",
        ),
        (
            lambda a, b: torch.randn(3, generator=torch.Generator("cuda")),
            RuntimeError,
            "Expected a 'cpu' device type for generator but found 'cuda'",
        ),
        (lambda a, b: a.uniform_(generator=torch.Generator()), RuntimeError, "Expected a 'cuda' device type"),
        (lambda a, b: setattr(a.requires_grad_(), "grad", b), RuntimeError, "assigned grad has data located on a diff"),
    ],
)
def test_refused(there: Tensor, here: Tensor, refused: Pair, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        refused(there, here)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (lambda a, b: a + b[0], [11.0, 12.0, 13.0]),  # numbers may stay on the host
        (lambda a, b: b[0] + a, [11.0, 12.0, 13.0]),
        (lambda a, b: a[0] + b[0], 11.0),
        (lambda a, b: a.add_(b[0]), [11.0, 12.0, 13.0]),
        (lambda a, b: torch.where(a > 1, a, b[0]), [10.0, 2.0, 3.0]),
        (lambda a, b: a.masked_fill(a > 1, b[0]), [1.0, 10.0, 10.0]),
        (lambda a, b: a.clamp(min=torch.tensor(2.0)), [2.0, 2.0, 3.0]),
        (lambda a, b: 1 - a, [0.0, -1.0, -2.0]),
        (lambda a, b: a[torch.tensor([2, 0])], [3.0, 1.0]),  # indices too
        (lambda a, b: a[b > 10], [2.0, 3.0]),
        (lambda a, b: a[[0, 1]], [1.0, 2.0]),
        (lambda a, b: a[torch.tensor(1)], 2.0),
        (lambda a, b: a.to("cpu").cuda() + b.to(a), [11.0, 22.0, 33.0]),
        (lambda a, b: a.copy_(b), [10.0, 20.0, 30.0]),
        (lambda a, b: a.view_as(b), [1.0, 2.0, 3.0]),
        (lambda a, b: torch.as_tensor(np.ones(2, np.float32), device="cuda"), [1.0, 1.0]),
        (lambda a, b: torch.tensor(a), [1.0, 2.0, 3.0]),
        (lambda a, b: torch.zeros_like(b, device="cuda"), [0.0, 0.0, 0.0]),
        (lambda a, b: torch.rand(0, generator=torch.Generator("cuda"), device="cuda"), []),
        (lambda a, b: torch.sparse.mm(torch.eye(3).to_sparse().cuda(), a[:, None])[:, 0], [1.0, 2.0, 3.0]),
        (lambda a, b: b.pin_memory().to("cuda", non_blocking=True), [10.0, 20.0, 30.0]),
        (lambda a, b: copy.deepcopy(a), [1.0, 2.0, 3.0]),
        (lambda a, b: pickle.loads(pickle.dumps(a)), [1.0, 2.0, 3.0]),  # noqa: S301 - our own
        (lambda a, b: torch.linalg.svd(a[None]).S, [14.0**0.5]),
        (lambda a, b: torch.linalg.vector_norm(a[None], dim=1), [14.0**0.5]),
    ],
)
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_allowed(there: Tensor, here: Tensor, allowed: Callable[[Tensor, Tensor], Tensor], expected: Any) -> None:
    result = allowed(there, here)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), torch.tensor(expected), check_dtype=False)


def test_types_go_with_the_device(there: Tensor, here: Tensor) -> None:
    whole = torch.tensor([1, 2])
    for moved in (
        whole.to(there),
        whole.cuda().to(there),
        whole.to("cuda", torch.float32),
        whole.to(torch.float32).cuda(),
    ):
        assert (moved.dtype, moved.is_cuda) == (torch.float32, True)
    assert not there.to(torch.float64).to(here).is_cuda
    assert there.double().is_cuda


def test_copies_share_no_memory(there: Tensor, here: Tensor) -> None:
    array = np.zeros(2)
    for moved in (here.cuda(), there.cpu(), torch.as_tensor(array, device="cuda")):
        moved.zero_().sub_(1)
    assert (here.tolist(), there.tolist(), array.tolist()) == ([10, 20, 30], [1, 2, 3], [0, 0])


def test_slices_are_written_from_either_side(there: Tensor, here: Tensor) -> None:
    there[:2] = here[:2]
    here[2:] = there[2:]
    there[there > 15] = 0
    there[torch.tensor([1])] = here[1]  # a number
    assert (there.tolist(), here.tolist()) == ([10, 20, 3], [10, 20, 3])


def test_modules_and_their_gradients(traffic: Traffic) -> None:
    layer, x = nn.Linear(3, 1), torch.ones(2, 3)
    weight = layer.weight
    layer.to("cuda")
    assert layer.weight is weight  # as on a real card
    assert isinstance(layer.weight, nn.Parameter)
    assert (
        {p.device.type for p in layer.parameters()} == {t.device.type for t in layer.state_dict().values()} == {"cuda"}
    )
    loss = layer(x.cuda()).square().sum()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.is_cuda
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    before = copy.deepcopy(layer)
    optimizer.step()
    assert bool((before.weight != layer.weight).all())
    assert before.weight.is_cuda
    a, b = torch.ones(2, requires_grad=True), torch.ones(2, device="cuda", requires_grad=True)
    grads = torch.autograd.grad((a.cuda() * b).sum(), (a, b))
    assert [g.device.type for g in grads] == ["cpu", "cuda"]
    assert layer.to("cpu").weight is weight
    assert type(weight) is nn.Parameter
    assert not weight.is_cuda
    layer(x)


class _Doubled(torch.autograd.Function):
    """Looks, on the way back, at what it is given."""

    seen: list[str]
    mixing = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        _Doubled.seen = [gradient.device.type, x.device.type]
        return 2 * gradient + (torch.zeros(x.shape) if _Doubled.mixing else 0)


@pytest.mark.parametrize("mixing", [False, True])
def test_the_way_back_is_on_the_card_too(traffic: Traffic, monkeypatch: pytest.MonkeyPatch, mixing: bool) -> None:
    monkeypatch.setattr(_Doubled, "mixing", mixing)
    x = torch.ones(2, device="cuda", requires_grad=True)
    y = _Doubled.apply(x * 1).sum()
    if mixing:
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            torch.autograd.grad(y, x)
    else:
        (gradient,) = torch.autograd.grad(y, x)
        assert gradient.is_cuda
        assert gradient.tolist() == [2, 2]
    assert _Doubled.seen == ["cuda", "cuda"]


def test_autocast_of_the_card(there: Tensor) -> None:
    matrix = torch.ones(2, 2, device="cuda")
    assert not torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        assert (matrix @ matrix).dtype == torch.bfloat16
        with torch.autocast("cuda", enabled=False):
            assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda a, b: b.cuda(), (1, 0, 0, 1)),
        (lambda a, b: torch.tensor([1.0], device="cuda"), (1, 0, 0, 1)),
        (lambda a, b: torch.as_tensor(np.ones(2), device="cuda"), (1, 0, 0, 1)),
        (lambda a, b: a.copy_(b), (1, 0, 0, 1)),
        (lambda a, b: a.__setitem__(slice(2), b[:2]), (1, 0, 0, 1)),
        (lambda a, b: a[torch.tensor([0])], (1, 0, 0, 1)),
        (lambda a, b: b.cuda(non_blocking=True), (1, 0, 0, 1)),
        (lambda a, b: b.pin_memory().cuda(), (1, 0, 0, 1)),
        (lambda a, b: (b.pin_memory() + 1).cuda(non_blocking=True), (1, 0, 0, 1)),
        (lambda a, b: b.pin_memory()[1:].view(-1).to("cuda", non_blocking=True), (1, 0, 0)),
        (lambda a, b: a.copy_(torch.empty(3, pin_memory=True), non_blocking=True), (1, 0, 0)),
        (lambda a, b: a.cuda(), (0, 0, 0)),
        (lambda a, b: b.cpu(), (0, 0, 0)),
        (lambda a, b: torch.zeros(3, device="cuda") + 2 * a, (0, 0, 0)),
        (lambda a, b: a + b[0], (0, 0, 0)),
        (lambda a, b: a.__setitem__(a > 1, 0.0), (0, 0, 0)),
        (lambda a, b: torch.linalg.cholesky_ex(torch.eye(2, device="cuda")), (0, 0, 0)),
        (lambda a, b: a.cpu(), (0, 1, 1)),
        (lambda a, b: a.to("cpu"), (0, 1, 1)),
        (lambda a, b: b.copy_(a), (0, 1, 1)),
        (lambda a, b: a[0].item(), (0, 0, 1)),
        (lambda a, b: float(a[0]) + int(a[1]) + bool(a[2]), (0, 0, 3)),
        (lambda a, b: a.tolist(), (0, 0, 1)),
        (lambda a, b: "x" if a.sum() > 0 else "y", (0, 0, 1)),
        (lambda a, b: a[a > 1], (0, 0, 1)),
        (lambda a, b: a.__setitem__(a > 1, a[:2] + 1), (0, 0, 1)),
        (lambda a, b: a.nonzero(), (0, 0, 1)),
        (lambda a, b: torch.where(a > 1), (0, 0, 1)),
        (lambda a, b: torch.linalg.svd(a[None]), (0, 0, 1)),
        (lambda a, b: a[a.argmax()], (0, 0, 1)),
        (lambda a, b: b.sum().item() + (b > 1).any().item(), (0, 0, 0)),
        (lambda a, b: torch.cuda.synchronize(), (0, 0, 1)),
    ],
)
def test_counts(traffic: Traffic, there: Tensor, here: Tensor, work: Pair, expected: tuple[int, ...]) -> None:
    before = traffic.counts()
    work(there, here)
    assert traffic.counts() - before == (*expected, 0)[:4], traffic.report()


def test_threads_started_within_are_on_the_card(traffic: Traffic) -> None:
    def make(size: int) -> str:
        return torch.ones(size, device="cuda").device.type

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(make(1)))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(3) as pool:
        found.extend(pool.map(make, range(2, 6)))
    assert found == 5 * ["cuda"]


def _state() -> list[Any]:
    return [vars(owner).get(name) for owner, attributes in _attributes().items() for name in attributes]


def test_nothing_of_it_stays() -> None:
    before = _state()
    with simulated_card() as outer, simulated_card() as inner:
        assert inner is outer
        left = torch.ones(2, device="cuda")
        assert _state() != before
    assert _state() == before

    def fail() -> None:
        with simulated_card():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _state() == before
    assert torch.zeros(1).device.type == "cpu"
    assert isinstance(torch.Generator(), torch.Generator)
    assert left.is_cuda  # and still refuses to mix
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        _ = left + torch.ones(2)
    with simulated_card() as traffic:
        assert traffic.counts() == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [lambda script: [str(script)], lambda script: ["-m", script.stem]], ids=["file", "-m"]
)
def test_a_program_of_its_own(tmp_path: Path, target: Callable[[Path], list[str]]) -> None:
    root = Path(__file__).parents[1]
    script = tmp_path / "script.py"
    script.write_text("import sys, torch\nprint(sys.argv[1:], torch.zeros(2, device='cuda').device)")
    command = [sys.executable, "-m", "tests.simulated_card", *target(script), "one", "--two"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (result.stdout, result.returncode) == ("['one', '--two'] cuda:0\n", 0), result.stderr
