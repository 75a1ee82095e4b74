"""Full precision for exact work: float32 products that are float32 all through, whatever the process is set to.

TF32 keeps ten bits of a factor, bfloat16 seven: a patch embedding would be off by a thousandth, and with it all that is
exact. Whether torch multiplies float32 numbers so is a setting of the whole process. It is torch's default for the
convolutions of a card, and a user may have asked for more of it. Work that must not round by itself takes place within
`full_precision`, where a caller's autocast does not reach it either. When the last thread has left, the settings are
what they were. Those for products of half precision (reduced precision reductions) do not concern float32.
"""

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor

from nullspace_cli.engine.runtime.process import Shared

OPERATIONS = tuple((backend, operation) for backend in ("cuda", "mkldnn") for operation in ("matmul", "conv", "rnn"))
"""What newer versions of torch have a precision of float32 for: "ieee", "tf32", "bf16", or "none" for that of ABOVE."""

ABOVE = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
"""From which operations inherit theirs; the more general first."""


class FullPrecision(ContextDecorator):
    """A context manager, or a function's decorator, for any number of threads at once, and within itself."""

    def __init__(self) -> None:
        self._products, self._here = Shared(_full_products), threading.local()

    def __enter__(self) -> None:
        within: list[ExitStack] = self._here.__dict__.setdefault("within", [])
        with ExitStack() as stack:
            stack.enter_context(self._products)
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            within.append(stack.pop_all())

    def __exit__(self, *error: object) -> Literal[False]:
        self._here.within.pop().close()
        return False


@contextmanager
def _full_products() -> Iterator[None]:
    """The process's settings of float32 products at full precision, then as they were.

    Newer versions of torch have them twice, one for each operation and, older, one for matrices and one for cuDNN. They
    raise where one is asked for that disagrees with the other, in the midst of a product too. So both are set.
    """
    newer = _newer_settings()
    try:
        for place in newer:
            _set_newer(place, "ieee" if place in OPERATIONS else "none")
        matrices, cudnn = torch.get_float32_matmul_precision(), _cudnn_allows_tf32()
        try:
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
            for place in OPERATIONS if newer else ():
                _set_newer(place, "ieee")  # what the older ones have set on their way
            yield
        finally:
            torch.set_float32_matmul_precision(matrices)
            torch.backends.cudnn.allow_tf32 = cudnn
    finally:
        for place, precision in newer.items():
            _set_newer(place, precision)


def _newer_settings() -> dict[tuple[str, str], str]:
    """Each of ABOVE and of OPERATIONS as it was set itself, not as it inherits; none in older versions of torch."""
    get = getattr(torch._C, "_get_fp32_precision_getter", None)  # torch.backends' own cannot set all of them
    if get is None:
        return {}
    effective = {place: get(*place) for place in (*ABOVE, *OPERATIONS)}
    found = {}
    for place in ABOVE:
        found[place] = get(*place)
        _set_newer(place, "none")
    # cuDNN's are "tf32" until they are set, or inherit something.
    found |= {place: own if (own := get(*place)) == effective[place] else "none" for place in OPERATIONS}
    for place in ABOVE:
        _set_newer(place, found[place])
    return found


def _set_newer(place: tuple[str, str], precision: str) -> None:
    torch._C._set_fp32_precision_setter(*place, precision)


def _cudnn_allows_tf32() -> bool:
    """The older setting, where the newer ones are "ieee": torch raises if it disagrees."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return True


full_precision = FullPrecision()
"""Around all exact work: `with full_precision:`, or over a function."""


def stored_eps(weight: Tensor) -> float:
    """Machine epsilon of the precision that a weight is stored in: half precision may have been widened since."""
    lower = (torch.bfloat16, torch.float16, torch.float32)
    kind = next((low for low in lower if torch.equal(weight.to(low).to(weight.dtype), weight)), weight.dtype)
    return torch.finfo(kind).eps
