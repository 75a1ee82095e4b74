"""The simulated card put into torch, and taken out again."""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import Function
from torch.utils._pytree import tree_map

from tests.simulated_card import card
from tests.simulated_card.card import CardGenerator, EveryOperation, declared, names_card, on_card
from tests.simulated_card.rules import leaves
from tests.simulated_card.traffic import Traffic

MEMORY = 64 << 30

_within: list[Traffic] = []
_lock = threading.RLock()


@contextlib.contextmanager
def simulated_card() -> Iterator[Traffic]:
    """Have a CUDA device in this process, in threads that are started within too; what moves is counted.

    Entered within itself, by whichever thread, it is the same card. All that is patched in torch is restored.
    """
    with _lock:
        outermost = not _within
        installed = _installed() if outermost else ExitStack()
        if outermost:
            _within.append(Traffic())
            card.traffic = _within[0]
    try:
        with EveryOperation():
            yield _within[0]
    finally:
        with _lock:
            installed.close()
            if outermost:
                _within.clear()


def _installed() -> ExitStack:
    """All patches; whoever closes the stack takes them away."""
    for module in ("timm.data", "torch._dynamo"):  # read later, they would find what is patched and keep it
        importlib.import_module(module)
    with ExitStack() as stack:
        for owner, attributes in _attributes().items():
            for name, value in attributes.items():
                if hasattr(owner, name):
                    stack.enter_context(patch.object(owner, name, value))
        return stack.pop_all()


def _attributes() -> dict[Any, dict[str, Any]]:
    """What replaces what: of each owner, the new attributes."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def answer(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    def wait(*_: Any) -> None:
        card.traffic.note("waits", "synchronize")

    questions = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_initialized": True,
        "is_current_stream_capturing": False,
        "get_device_name": "simulated card",
        "get_device_capability": (9, 0),
        "mem_get_info": (MEMORY, MEMORY),
        "is_bf16_supported": True,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "memory_reserved": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
    }
    orders = (
        *("init", "_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats"),
        *("manual_seed", "manual_seed_all", "seed", "seed_all"),
    )
    return {
        torch.cuda: {
            **{name: answer(value) for name, value in questions.items()},
            **dict.fromkeys(orders, nothing),
            "synchronize": wait,
            "Stream": _Stream,
            "Event": _Event,
            "current_stream": _Stream,
            "stream": lambda stream: contextlib.nullcontext(),
        },
        torch: {
            "Generator": _AnyGenerator,
            "autocast": _Autocast,
            "is_autocast_enabled": _of_the_host(torch.is_autocast_enabled),
            "get_autocast_dtype": _of_the_host(torch.get_autocast_dtype),
        },
        torch.amp: {"autocast": _Autocast},
        torch.optim.Optimizer: {
            "_accelerator_graph_capture_health_check": nothing,
            "_cuda_graph_capture_health_check": nothing,
        },
        torch.Tensor: {"record_stream": nothing},  # it looks at its argument before anything else
        Function: {"apply": classmethod(_applied)},
        torch.autograd.function.BackwardCFunction: {"apply": _went_back},
        threading.Thread: {"_bootstrap_inner": _in_the_mode},
    }


class _Stream:
    """A stream of a card on which all is done at once."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_event(self, event: "_Event") -> None:
        if not event.recorded:
            raise AssertionError("a stream waits for an event that nobody has recorded: for nothing, on a real card")

    def wait_stream(self, stream: "_Stream") -> None:
        pass

    def synchronize(self) -> None:
        card.traffic.note("waits", "synchronize")


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.recorded = False

    def record(self, stream: _Stream | None = None) -> None:
        self.recorded = True

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Whoever waits for a copy waits for what was computed before it on the copy's own stream alone."""


class _OfGenerators(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)

    def __call__(cls, device: Any = "cpu") -> torch._C.Generator:
        return CardGenerator() if _within and names_card(device) else torch._C.Generator(device)


class _AnyGenerator(metaclass=_OfGenerators):
    """Stands for torch.Generator, of either device."""


def _host_type(device_type: str | None) -> str | None:
    return "cpu" if device_type == "cuda" and _within else device_type


class _Autocast(torch.autocast):
    """torch.autocast, which does on the card what it does on the CPU."""

    def __init__(self, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(str(_host_type(device_type)), dtype, *args, **kwargs)


def _of_the_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def asked(device_type: str | None = None) -> Any:
        # Without an argument `is_autocast_enabled` means the card's.
        return function(_host_type("cuda" if device_type is None else device_type))

    return asked


_plain_apply = Function.__dict__["apply"]
_plain_backward = torch.autograd.function.BackwardCFunction.apply
_plain_thread = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]


def _applied(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    """An autograd function of Python's, which marks its node if it computes on the card."""
    out = _plain_apply.__get__(None, cls)(*args, **kwargs)
    if not any(map(on_card, leaves(args))):
        return out

    def marked(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            declared(value, to_card=True)
            if value.grad_fn is not None:
                value.grad_fn.on_card = True  # type: ignore[attr-defined]
        return value

    with torch._C.DisableTorchFunctionSubclass():
        return tree_map(marked, out)


def _went_back(node: Any, *gradients: Any) -> Any:
    """The way back through such a function: in the mode, which autograd's engine is called without."""
    if not getattr(node, "on_card", False):
        return _plain_backward(node, *gradients)
    with torch._C._EnableTorchFunction(), EveryOperation():
        placed = (declared(g, to_card=True) if isinstance(g, torch.Tensor) else g for g in gradients)
        return _plain_backward(node, *placed)


def _in_the_mode(thread: threading.Thread) -> None:
    with EveryOperation():
        _plain_thread(thread)
