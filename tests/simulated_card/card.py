"""Tensors that say that they are on the card, and what becomes of every operation of torch while there is one."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from tests.simulated_card.rules import (
    FIRST_ALONE,
    MADE_FROM_DATA,
    MOVES,
    WAITS,
    WITH_HOST_TENSORS,
    WRITES,
    as_index,
    is_in_place,
    is_number,
    is_pointwise,
    leaves,
    name_of,
    selects,
)
from tests.simulated_card.traffic import Traffic

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
Generator = torch._C.Generator
Operation = Callable[..., Any]


class OnCard(Tensor):
    """A tensor in the CPU's memory that says that it is on the card."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})  # also in a thread that has no mode, and after the card is gone


class Pinned(Tensor):
    """A tensor in the host's memory from which the card can copy while the host goes on; views of it are, too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class CardGenerator(Generator):
    """A generator that says that it is on the card."""

    def __new__(cls) -> "CardGenerator":
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    device = property(lambda self: CARD)


class EveryOperation(TorchFunctionMode):
    """Within it, also operations without a tensor on the card are seen: those that shall make one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


traffic = Traffic()
"""Of the card that is there now; `patches` puts a fresh one here."""


def on_card(value: Any) -> bool:
    return isinstance(value, OnCard)


def names_card(device: Any) -> bool:
    """Whether a device is the card.

    Raises:
        RuntimeError: it is a second card.
    """
    if isinstance(device, Tensor):
        return on_card(device)
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type != "cuda":
        return False
    if device.index:
        raise RuntimeError(f"CUDA error: invalid device ordinal ({device}; there is one simulated card)")
    return True


def moved(tensor: Tensor, to_card: bool) -> Tensor:
    """The same memory, seen as being on the other side; gradients pass."""
    return tensor if on_card(tensor) == to_card else tensor.as_subclass(OnCard if to_card else Tensor)


def declared(tensor: Tensor, to_card: bool) -> Tensor:
    """The very tensor, henceforth on a side."""
    if on_card(tensor) != to_card:
        parameter = isinstance(tensor, nn.Parameter)
        tensor.__class__ = OnCard if to_card else nn.Parameter if parameter else Tensor
        if parameter and to_card:
            tensor._is_param = True
    return tensor


def run(func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what the card would do: refuse, or compute on the CPU and say where the results are."""
    with torch._C.DisableTorchFunctionSubclass():
        flat = leaves((*args, *kwargs.values()))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        name, here = name_of(func), not any(map(on_card, tensors))
        if not here and (own := OWN_WAYS.get(name)):
            return own(func, *args, **kwargs)
        if name == "pin_memory":
            return args[0].clone().as_subclass(Pinned)
        if name == "is_pinned":
            return isinstance(args[0], Pinned)
        if kwargs.get("pin_memory"):
            kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
            return func(*args, **kwargs).as_subclass(Pinned)
        asked = _asked(name, args, kwargs)
        if asked is None and here:
            _check_generators(name, flat, to_card=False)
            return _as_pinned(func(*args, **kwargs), tensors)
        if name.endswith(".__set__"):
            return _set(func, name, *args)
        to_card = _side(name, args, kwargs, tensors) if asked is None else asked
        if asked is None:
            _check_sides(name, args, kwargs, tensors, to_card)
        _check_generators(name, flat, to_card)
        _note(name, args, kwargs, tensors, to_card)
        return _computed(func, name, args, kwargs, tensors, to_card)


def _as_pinned(out: Any, tensors: list[Tensor]) -> Any:
    """A view of pinned memory is pinned."""
    if type(out) is Tensor and any(isinstance(tensor, Pinned) for tensor in tensors):
        memory = out.untyped_storage().data_ptr()
        if any(isinstance(one, Pinned) and one.untyped_storage().data_ptr() == memory for one in tensors):
            return out.as_subclass(Pinned)
    return out


def _computed(
    func: Operation, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], to_card: bool
) -> Any:
    """The results of the CPU's operation, on their side; memory is never shared across."""
    if name == "cuda":
        func, args = torch.Tensor.to, (args[0], HOST)
    elif name == "to":
        args = (
            args[0],
            *(HOST if _is_device(value) and not isinstance(value, Tensor) else value for value in args[1:]),
        )
    if kwargs.get("device") is not None and names_card(kwargs["device"]):
        kwargs = {**kwargs, "device": HOST}
    out = func(*args, **kwargs)
    if torch.autograd.grad is func:
        inputs = args[1] if len(args) > 1 else kwargs["inputs"]
        sides = [on_card(x) for x in ([inputs] if isinstance(inputs, Tensor) else inputs)]
        return tuple(g if g is None else declared(g, side) for g, side in zip(out, sides, strict=True))
    if name == "broadcast_tensors":
        return tuple(declared(part, on_card(tensor)) for part, tensor in zip(out, tensors, strict=True))

    def placed(result: Any) -> Any:
        if not isinstance(result, Tensor):
            return result
        if name in MADE_FROM_DATA and name != "tensor" and to_card != any(map(on_card, tensors)):
            result = result.clone()  # it may be numpy's memory
        elif on_card(result) != to_card and any(result is tensor for tensor in tensors):
            result = result.clone()
        return declared(result, to_card)

    return placed(out) if isinstance(out, Tensor) else tree_map(placed, out)


def _is_device(value: Any) -> bool:
    return isinstance(value, str | torch.device | Tensor) or type(value) is int


def _asked(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
    """Whether the card is asked for; None where no device is."""
    if kwargs.get("device") is not None:
        return names_card(kwargs["device"])
    if name == "cpu":
        return False
    if name == "cuda":
        return names_card(args[1]) if len(args) > 1 and args[1] is not None else True
    if name == "to":
        found = next((value for value in (*args[1:], kwargs.get("other")) if _is_device(value)), None)
        return None if found is None else names_card(found)
    return on_card(args[1]) if name == "type_as" else None


def _side(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> bool:
    """Whether the results are on the card, where no device is asked for."""
    if name in MADE_FROM_DATA and name != "new_tensor":
        return on_card(args[0] if args else kwargs.get("data"))
    if name in WRITES or name in FIRST_ALONE or name in WITH_HOST_TENSORS or name == "new_tensor" or is_in_place(name):
        return on_card(args[0])
    if "out" in kwargs:
        outputs = leaves([kwargs["out"]])
        tensors = [tensor for tensor in tensors if all(tensor is not output for output in outputs)] or tensors
    return any(map(on_card, tensors))


def _check_sides(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], to_card: bool
) -> None:
    """Refuse tensors of two devices where a real card does."""
    for out in leaves([kwargs.get("out")]):
        if isinstance(out, Tensor) and on_card(out) != to_card:
            raise RuntimeError(
                f"Expected out tensor to have device {'cuda:0' if to_card else 'cpu'}, but got "
                f"{'cuda:0' if on_card(out) else 'cpu'} instead ({name})"
            )
    if all(on_card(tensor) == to_card for tensor in tensors):
        return
    if name in MOVES or name in FIRST_ALONE or name in WITH_HOST_TENSORS or name in ("copy_", "broadcast_tensors"):
        return
    if name in MADE_FROM_DATA or name == "grad":
        return
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
        _check_index(name, *args)
        return
    numbers_pass = is_pointwise(name) and not (is_in_place(name) and not to_card)
    if not numbers_pass or any(tensor.dim() > 0 for tensor in tensors if not on_card(tensor)):
        _refuse(name, tensors)


def _check_index(name: str, tensor: Tensor, index: Any, value: Any = None, *_: Any) -> None:
    """An index may stay on the host, and a value where the index only slices; numbers (0-dim) always may."""
    chosen = [part for part in leaves(as_index(index)) if isinstance(part, Tensor) and selects(part)]
    if not on_card(tensor) and any(map(on_card, chosen)):
        raise RuntimeError(
            f"indices should be either on cpu or on the same device as the indexed tensor (cpu) ({name})"
        )
    picks = name.startswith("index_put") or any(selects(part) for part in as_index(index))
    if picks and isinstance(value, Tensor) and value.dim() > 0 and on_card(value) != on_card(tensor):
        _refuse(name, [tensor, value])


def _refuse(name: str, tensors: list[Tensor]) -> NoReturn:
    where = ", ".join(f"{tuple(tensor.shape)} on {'cuda:0' if on_card(tensor) else 'cpu'}" for tensor in tensors)
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        f"({name}: {where})"
    )


def _check_generators(name: str, flat: list[Any], to_card: bool) -> None:
    for value in flat:
        if type(value) in (Generator, CardGenerator) and (type(value) is CardGenerator) != to_card:
            kinds = ("cuda", "cpu") if to_card else ("cpu", "cuda")
            raise RuntimeError(f"Expected a '{kinds[0]}' device type for generator but found '{kinds[1]}' ({name})")


def _note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], to_card: bool) -> None:
    """Count what crosses, and whether the host waits."""
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
        _note_index(name, *args)
    elif name in MOVES or name == "copy_":
        source = args[1] if name == "copy_" else args[0]
        if isinstance(source, Tensor):
            asynchronous = bool(kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
            _note_copy(name, on_card(source), to_card, held=not (asynchronous and isinstance(source, Pinned)))
    elif name in MADE_FROM_DATA:
        data = args[name == "new_tensor"] if len(args) > (name == "new_tensor") else kwargs.get("data")
        numbers = 0 if isinstance(data, Tensor) else sum(map(on_card, leaves([data])))
        traffic.note("waits", name, numbers)
        _note_copy(name, on_card(data), to_card)
    elif (
        name in WAITS
        or (name == "where" and len(args) == 1)
        or (name == "repeat_interleave" and sum(map(on_card, tensors)) > 1)
    ):
        traffic.note("waits", name)


def _note_copy(name: str, from_card: bool, to_card: bool, *, held: bool = True) -> None:
    if to_card and not from_card:
        traffic.note("to_card", name)
        traffic.note("held", name, held)
    elif from_card and not to_card:
        traffic.note("to_host", name)
        traffic.note("waits", name)


def _note_index(name: str, tensor: Tensor, index: Any, value: Any = None, *_: Any) -> None:
    parts = as_index(index)
    traffic.note("waits", name, sum(is_number(part) and on_card(part) for part in parts))
    if on_card(tensor):
        lists = sum(selects(part) and not on_card(part) for part in parts)
        traffic.note("to_card", name, lists)
        traffic.note("held", name, lists)
        one = not isinstance(value, Tensor) or value.dim() == 0  # a mask and a number need no list of places
        if name == "__getitem__" or not one:
            masks = (isinstance(part, Tensor) and part.dtype == torch.bool for part in parts if on_card(part))
            traffic.note("waits", name, sum(masks))
    if isinstance(value, Tensor):
        _note_copy(name, on_card(value), on_card(tensor))


def _set(func: Operation, name: str, tensor: Tensor, value: Any) -> None:
    """Properties: `grad` stays on its side, `data` brings the tensor with it."""
    other = isinstance(value, Tensor) and on_card(value) != on_card(tensor)
    if other and name == "grad.__set__":
        raise RuntimeError(
            "assigned grad has data located on a different device "
            f"({'cuda:0' if on_card(value) else 'cpu'}; expected {'cuda:0' if on_card(tensor) else 'cpu'})"
        )
    func(tensor, value)
    if other and name == "data.__set__":
        declared(tensor, on_card(value))


# What tensors on the card do in their own way


def _not_numpy(func: Operation, tensor: Tensor, *_: Any, **__: Any) -> NoReturn:
    raise TypeError(
        "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
    )


def _not_exported(func: Operation, tensor: Tensor, *_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("Unsupported device in DLTensor.")  # numpy's words


def _not_pinned(func: Operation, tensor: Tensor, *_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        f"cannot pin 'torch.cuda.{tensor.type().partition('.')[2]}' only dense CPU tensors can be pinned"
    )


def _type(func: Operation, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    if not args and not kwargs:
        return func(tensor).replace("torch.", "torch.cuda.")
    return moved(func(tensor, *args, **kwargs), on_card(tensor))


def _shown(func: Operation, tensor: Tensor, *args: Any, **_: Any) -> str:
    name = name_of(func)
    traffic.note("waits", name)
    plain = moved(tensor.detach(), to_card=False)
    if name == "__format__":
        return str(func(plain, *args)) if tensor.dim() == 0 else _shown(torch.Tensor.__repr__, tensor)
    return f"{plain!r}"[:-1] + ", device='cuda:0')"


def _deep_copied(func: Operation, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) in memo:
        return memo[id(tensor)]
    if not tensor.is_leaf:
        raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol at the moment.")
    copied = moved(tensor.detach().clone(), to_card=True).requires_grad_(tensor.requires_grad)
    copied.__dict__.update(tensor.__dict__)
    memo[id(tensor)] = copied
    return copied


def _pickled(func: Operation, tensor: Tensor, protocol: int) -> tuple[Any, ...]:
    traffic.note("to_host", "pickle")
    traffic.note("waits", "pickle")
    return _unpickled, (moved(tensor.detach(), to_card=False).clone(), tensor.requires_grad)


def _unpickled(tensor: Tensor, requires_grad: bool) -> Tensor:
    return tensor.as_subclass(OnCard).requires_grad_(requires_grad)


def _hooked(func: Operation, tensor: Tensor, hook: Callable[[Tensor], Any]) -> Any:
    @functools.wraps(hook)
    def on_its_side(gradient: Tensor) -> Any:
        with torch._C._EnableTorchFunction(), EveryOperation():
            return hook(moved(gradient, to_card=True))

    return func(tensor, on_its_side)


OWN_WAYS: dict[str, Operation] = {
    "device.__get__": lambda func, tensor: CARD,
    "is_cuda.__get__": lambda func, tensor: True,
    "is_cpu.__get__": lambda func, tensor: False,
    "get_device": lambda func, tensor: 0,
    "type": _type,
    "numpy": _not_numpy,
    "__array__": _not_numpy,
    "__dlpack__": _not_exported,
    "_has_compatible_shallow_copy_type": lambda func, *tensors: func(*tensors),
    "pin_memory": _not_pinned,
    "is_pinned": lambda func, tensor, *_: False,
    "__repr__": _shown,
    "__format__": _shown,
    "__deepcopy__": _deep_copied,
    "__reduce_ex__": _pickled,
    "register_hook": _hooked,
}
