"""Where a model sees evidence."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.saliency.methods import choose, supported
from nullspace_cli.engine.saliency.methods import explain as _explain
from nullspace_cli.library.arguments import require_model, wrong
from nullspace_cli.library.inputs import require_batch


def explanation_methods(model: Model) -> tuple[str, ...]:
    """The methods that can explain the model: by tokens for plain ViTs, by features for CNNs, by pixels for all."""
    require_model(model)
    return supported(model)


def explain(
    model: Model,
    images: Float[Tensor, "b c h w"],
    method: str,
    *,
    target: int | Sequence[int] | Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b gh gw"]:
    """Where the model sees evidence for a class.

    Args:
        images: in [0, 1], of the model's input size.
        method: its name, as of `explanation_methods(model)` and `vitnull explain`: "attribution", "rollout", "gradcam",
            "integrated-gradients", ...
        target: the class, or one for each image; None for each image's own top-1. Without a head there is none, and
            0.5 ||features||^2 is explained.

    Returns:
        Float64 on the images' device, on the method's own grid (patches, the last feature map, or pixels), neither
        normalised nor upsampled.

    Raises:
        UsageError: there is no such method or class, or the images are not what the model reads.
        ModelError: the method cannot explain this model.
    """
    require_model(model)
    if not isinstance(method, str) or method == "all":
        raise wrong("method", method, f"one name, of {', '.join(supported(model))}")
    (chosen,) = choose(model, [method])
    require_batch(model, images)
    classes = None if target is None else _classes(target, len(images))
    maps = _explain(model, model.transform.to_normalized(images.detach()).float(), chosen, classes)
    return maps.to(images.device)


def _classes(target: int | Sequence[int] | Tensor, count: int) -> Int[Tensor, " b"]:
    """The class of each image."""
    try:
        classes = torch.as_tensor(target).cpu()
    except (TypeError, ValueError, RuntimeError):
        classes = torch.empty(0)
    if classes.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64) or classes.shape not in (
        (),
        (count,),
    ):
        raise wrong("target", target, f"a class, or one for each of the {count} images")
    return classes.long().expand(count)
