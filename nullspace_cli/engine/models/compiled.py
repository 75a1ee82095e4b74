"""Networks whose repeated layers are compiled: it pays where many passes follow, on a card."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from nullspace_cli.engine.errors import ModelError, UsageError, first_line, is_out_of_memory
from nullspace_cli.engine.models.model import Model, classifier_of
from nullspace_cli.engine.runtime.autograd import differentiating
from nullspace_cli.engine.runtime.module_copies import rewired, standing_in
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS

BACKEND = "inductor"


def compiled(model: Model) -> Model:
    """The model with its blocks compiled, for passes on a card forward and back; its own layers stay as they are.

    Blocks are compiled, not the whole: noise enters before them and features are taken behind them, by layers that are
    exchanged for each pass. Blocks that are alike are compiled once.

    Raises:
        UsageError: it is not on a card: on the CPU compilation takes longer than it ever saves.
        ModelError: it has no blocks, or they cannot be compiled here.
    """
    if model.device.type != "cuda":
        raise UsageError(
            f"Compilation pays on a GPU alone, and {model.name} is on {model.device}.", hint="Leave out `compile`."
        )
    blocks = list(_blocks(model.module))
    if not blocks:
        raise ModelError(f"{model.name} has no repeated blocks to compile.", hint="Leave out `compile`.")
    stand_ins = {block: standing_in(block, torch.compile(block.forward, backend=BACKEND)) for block in blocks}
    found = replace(model, module=rewired(model.module, stand_ins))
    try:
        with WITHOUT_WARNINGS:  # of torch's about itself
            _try(found)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(getattr(error, "inner_exception", error))  # the compiler's own, of what dynamo raises
        raise ModelError(f"{model.name} cannot be compiled here: {reason}.", hint="Leave out `compile`.") from error
    return found


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that make up a sequence of layers of one kind, the outermost such, without the classifier."""
    head = classifier_of(module)
    for part in module.children():
        inner = list(part.children())
        alike = len(inner) > 1 and len({type(layer) for layer in inner}) == 1
        if isinstance(part, nn.Sequential | nn.ModuleList) and alike and head not in set(part.modules()):
            yield from inner


@differentiating
def _try(model: Model) -> None:
    """Go forward and back once: by it the blocks are compiled."""
    images = torch.zeros(2, *model.transform.input_size, device=model.device, requires_grad=True)
    torch.autograd.grad(model.forward(images).answer.sum(), images)
