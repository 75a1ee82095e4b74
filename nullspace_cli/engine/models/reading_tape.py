"""What a network does to an image up to the first learned layers: recorded in one forward pass, played on any image.

Nothing is known of architectures. Every operation that the image takes part in is written down until a learned
convolution or linear layer reads what has become of it; unfolds, resizes, fixed transforms and whatever else comes
before are steps of the tape. Played in float64, the tape is the network's own first layers without their rounding.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from nullspace_cli.engine.runtime.autograd import differentiating, ordinary
from nullspace_cli.engine.runtime.module_copies import copied
from nullspace_cli.engine.runtime.precision import full_precision

READERS = (F.conv2d, F.linear)
"""The operations by which a learned layer reads: their weights say what a kernel is."""
NUMBERS = (
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__),
    *(torch.equal, torch.allclose, torch.is_nonzero),
)
"""By which Python comes to know what is in a tensor, and may do other things with another image."""


@dataclass(frozen=True)
class Slot:
    """A tensor that the image has become, by its number."""

    number: int


@dataclass(frozen=True, eq=False)
class Step:
    """One operation that the image takes part in.

    Attributes:
        operation: what is called, as PyTorch hands it to a function mode.
        args, kwargs: with a `Slot` in the place of each tensor that the image has become.
        results: the numbers of the tensors that come of it.
        layer: the dotted name of the innermost layer at work; "" for the network itself.
    """

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[int, ...]
    layer: str

    def __str__(self) -> str:
        name = (resolve_name(self.operation) or repr(self.operation)).rpartition(".")[2].strip("_")
        return f"{name} in {self.layer or 'the network itself'}"

    def play(self, known: dict[int, Tensor]) -> None:
        """Do the same to other tensors, in float64 on the CPU, and note what comes of it."""
        args, kwargs = _mapped((self.args, self.kwargs), lambda leaf: _exact(leaf, known))
        operation = Tensor.double if self.operation in (Tensor.float, Tensor.half, Tensor.bfloat16) else self.operation
        known.update(zip(self.results, _made(operation(*args, **kwargs), args), strict=True))


@dataclass(frozen=True)
class Tape:
    """All that is done to an image until the last of the layers has read it that read it first.

    Attributes:
        steps: in the order in which they are done, the readers among them.
        readers: the learned layers.
        stray: the first operation that takes the image beside what was read of it already, or as a number that Python
            sees; None where there is none.
        input_size: (c, h, w) of the image.
    """

    steps: tuple[Step, ...]
    readers: tuple[Step, ...]
    stray: Step | None
    input_size: tuple[int, int, int]

    def play(self, image: Float[Tensor, "1 c h w"]) -> dict[int, Tensor]:
        """What becomes of another image (float64, normalised), by the numbers of the tensors; its own is 0."""
        known = {0: image.clone()}
        for step in self.steps:
            step.play(known)
        return known

    def read_by(self, reader: Step, image: Float[Tensor, "1 c h w"]) -> Tensor:
        """What of another image reaches one of the readers."""
        known, number = {0: image.clone()}, reader.args[0].number
        for step in self.steps:
            if step.results[0] <= number and step not in self.readers:
                step.play(known)
        return known[number]


@differentiating
@full_precision
def record(module: nn.Module, input_size: tuple[int, int, int]) -> Tape:
    """Run the module once on random numbers and write down what is done to them until learned layers have read them."""
    # A frozen parameter would not be told from a constant: those of the copy are not frozen.
    watched = copied(module, lambda tensor: ordinary(tensor.detach()), requires_grad=True)
    parameter = next(module.parameters())
    image = torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    with Recorder(watched, image) as recorder:
        watched(image)
    return recorder.tape()


class Recorder(TorchFunctionMode):
    """Sees every operation of a forward pass. Parameters require gradients, and the image does not."""

    def __init__(self, module: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.readers: list[Step] = []
        self.stray: Step | None = None
        self._read: list[Tensor] = []
        # Tensors are known by their identity, and so have to stay.
        self._numbers, self._kept, self._count = {id(image): 0}, [image], 1
        self._at_work = [""]
        for name, layer in module.named_modules():
            layer.register_forward_pre_hook(lambda *_, name=name: self._at_work.append(name))
            layer.register_forward_hook(lambda *_: self._at_work.pop() and None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        taken = list(_tensors((args, kwargs)))
        if not any(id(tensor) in self._numbers for tensor in taken):
            return func(*args, **kwargs)
        learned = [tensor for tensor in taken if tensor.requires_grad]
        own_args, own_kwargs = _mapped((args, kwargs), self._slot)
        result = func(*args, **kwargs)
        made = _made(result, args)
        if not made and func not in NUMBERS:
            return result
        numbers = tuple(range(self._count, self._count + len(made)))
        self._count += len(made)
        step = Step(func, own_args, own_kwargs, numbers, self._at_work[-1])
        if func in NUMBERS or any(self._has_read(tensor) for tensor in learned):
            self.stray = self.stray or step
        elif learned and func in READERS and isinstance(own_args[0], Slot):
            self.readers.append(step)
            self.steps.append(step)
            self._read += made
        else:
            self.steps.append(step)
            self._numbers.update(zip(map(id, made), numbers, strict=True))
            self._kept += made
        return result

    def tape(self) -> Tape:
        """What was recorded, up to the last reader."""
        last = self.readers[-1].results if self.readers else ()
        # A step is kept in any case: what is done in place to a part changes the whole.
        steps = tuple(step for step in self.steps if step.results <= last)
        _, c, h, w = self._kept[0].shape
        return Tape(steps, tuple(self.readers), self.stray, (c, h, w))

    def _slot(self, leaf: Any) -> Any:
        return Slot(self._numbers[id(leaf)]) if id(leaf) in self._numbers and isinstance(leaf, Tensor) else leaf

    def _has_read(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from what a reader has read."""
        ends = {read.grad_fn for read in self._read}
        seen, stack = set[Any](), [tensor.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            if node in ends:
                return True
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions)
        return False


def _made(result: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that come of an operation; what is put into a tensor makes another of it."""
    return list(_tensors(args[:1] if result is None else result))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same nest of tuples, lists and dictionaries, of other leaves."""
    if isinstance(value, dict):
        return {key: _mapped(part, leaf) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, leaf) for part in value)
    return leaf(value)


def _exact(leaf: Any, known: Mapping[int, Tensor]) -> Any:
    """What an operation was given, as it is played: in float64 and on the CPU, wherever the network was."""
    if isinstance(leaf, Slot):
        return known[leaf.number]
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu()
        return leaf.double() if leaf.is_floating_point() else leaf
    if isinstance(leaf, torch.dtype):
        return torch.float64 if leaf.is_floating_point else leaf
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
