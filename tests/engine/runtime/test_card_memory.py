"""How many samples a card has room for: against a card whose memory grows by a known amount with each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import IMAGES, MOST, Model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.runtime.card_memory import free_memory, samples_at_once

pytestmark = pytest.mark.gpu
CARD = torch.device("cuda")


class Memory:
    """Stands for a card's: `weights` lie there, `kept` is torch's for later, and others have taken some."""

    def __init__(self, patch: pytest.MonkeyPatch, total: int, *, weights: int = 0, kept: int = 0) -> None:
        self.weights = self.peak = weights
        self.room, self.sizes = total - weights, list[int]()
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (total - weights - kept, 10 * total))
        patch.setattr(torch.cuda, "memory_reserved", lambda *_: weights + kept)
        patch.setattr(torch.cuda, "memory_allocated", lambda *_: weights)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda *_: self.peak)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", self.forget)

    def forget(self, *_: object) -> None:
        self.peak = self.weights

    def work(self, once: int, each: int) -> Callable[[int], None]:
        """Takes `once` and `each` a sample, and on its first call workspaces of twice that."""

        def run(count: int) -> None:
            taken = once + each * count if self.sizes else 2 * (once + each * count)
            self.sizes.append(count)
            if taken > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.peak = max(self.peak, self.weights + taken)

        return run


@pytest.mark.parametrize(
    ("once", "each", "expected"),
    [(0, 1000, 512), (100_000, 1000, 512), (300_000, 1000, 256), (0, 1, 1024), (0, 80_000, 8), (300_000, 60_000, 4)],
)
def test_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch, once: int, each: int, expected: int) -> None:
    memory = Memory(monkeypatch, 1_000_000, weights=200_000, kept=300_000)
    assert free_memory(CARD) == 800_000
    assert samples_at_once(memory.work(once, each), CARD, 1024) == expected
    assert expected == 1024 or once + 2 * expected * each > 0.8 * 800_000
    memory.work(once, each)(expected)


@pytest.mark.parametrize(("room", "expected"), [(10, 1), (1000, 1), (2000, 2), (2100, 2), (7999, 2)])
def test_trials_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, room: int, expected: int) -> None:
    memory = Memory(monkeypatch, room)
    assert samples_at_once(memory.work(0, 1000), CARD, 1024) == expected


def test_what_is_a_bug_gets_through() -> None:
    with pytest.raises(ZeroDivisionError):
        samples_at_once(lambda count: 1 // 0, CARD, 4)


def loaded(device: str, batch_size: int | None) -> Model:
    return load_model(ModelRequest("demo-cnn", device=device, batch_size=batch_size))


def test_nothing_is_measured_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> None:
        raise AssertionError

    assert loaded("cuda", 5).images_at_once(refuse) == 5
    assert loaded("cpu", None).images_at_once(refuse) == IMAGES
    memory = Memory(monkeypatch, 10**12)
    model = loaded("cuda", None)
    assert model.images_at_once(memory.work(0, 1)) == MOST
    large = replace(model, transform=replace(model.transform, input_size=(3, 1000, 1000)))
    assert large.images_at_once(memory.work(0, 1)) == 64, "of 3 MB each"


def test_answers_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the simulated card nothing takes memory."""
    model, sizes = loaded("cuda", None), list[int]()
    images = torch.randn(70, *model.transform.input_size, generator=torch.Generator().manual_seed(0))
    first = next(layer for layer in model.module.modules() if isinstance(layer, torch.nn.Conv2d))
    with first.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]))):
        found = model(images)
        assert sizes == [1, 2, 8, 70]
        sizes.clear()
        model(images[:IMAGES])
    assert sizes == [IMAGES], "as few as that are not worth a trial"
    assert found.logits is not None
    assert len(found.logits) == 70
