"""Where a model sees evidence."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.saliency.methods import choose
from nullspace_cli.engine.saliency.methods import explain as _explain
from nullspace_cli.engine.saliency.methods import supported as explanation_methods
from nullspace_cli.library.inputs import require_batch

__all__ = ["explain", "explanation_methods"]


def explain(
    model: Model,
    images: Float[Tensor, "b 3 h w"],
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
    (chosen,) = choose(model, [method]) if method != "all" else (None,)
    if chosen is None:
        raise UsageError("method is 'all'; give one. explanation_methods(model) names them.")
    require_batch(model, images)
    classes = None
    if target is not None:
        classes = torch.as_tensor(target).cpu()
        if classes.is_floating_point() or classes.shape not in ((), (len(images),)):
            raise UsageError(f"target is {classes.dtype} {list(classes.shape)}; expected a class, or {len(images)}.")
        classes = classes.long().expand(len(images))
    maps = _explain(model, model.transform.to_normalized(images.detach()).float(), chosen, classes)
    return maps.to(images.device)
