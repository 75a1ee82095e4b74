"""GradCAM: where a network that keeps a map of features until its end finds its evidence."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nullspace_cli.engine.errors import ModelError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.autograd import differentiating, ordinary_tensors
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.saliency.gradients import explained, precision


@differentiating
def gradcam(
    model: Model, images: Float[Tensor, "b c h w"], classes: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b gh gw"]:
    """ReLU(sum_k a_k A^k), with a_k the mean over positions of dS/dA^k (Selvaraju et al. 2017, eq. 1 and 2).

    A [k, gh, gw] are the last features that the network keeps as a map: what timm's `forward_features` returns, the
    input of the pooling and the classifier. S is the explained scalar (`gradients.explained`). Only the head is
    differentiated. In the module's own precision whatever the model's `amp`, `batch_size` images or fewer at a time.

    Returns:
        float64, on the CPU, on the grid of A; zero throughout where all evidence is against the class.

    Raises:
        ModelError: the features are no map, as in a plain ViT.
    """
    parts = []

    def explain(start: int, stop: int) -> None:
        chunk = slice(start, stop)
        features = _features(model, images[chunk].to(model.device, precision(model))).requires_grad_(True)
        axis = _channel_axis(model, features)
        answer = model.module.forward_head(features)  # type: ignore[operator]
        scalars = explained(model, answer, None if classes is None else classes[chunk])
        (gradient,) = torch.autograd.grad(scalars.sum(), features)
        A, dA = (tensor.detach().movedim(axis, 1).double() for tensor in (features, gradient))
        weights = dA.mean((2, 3), keepdim=True)
        parts.append((weights * A).sum(1).relu().cpu())

    in_chunks(explain, len(images), model.batch_size)
    return torch.cat(parts)


def has_feature_map(model: Model) -> bool:
    """Whether `gradcam` can explain the model, found by one forward pass of an empty image."""
    size = (1, *model.transform.input_size)
    empty = torch.zeros(size, dtype=precision(model), device=model.device)
    try:
        _channel_axis(model, _features(model, empty))
    except ModelError:
        return False
    return True


def _features(model: Model, images: Float[Tensor, "b c h w"]) -> Tensor:
    """What the network hands to its head. No gradient is needed below."""
    if not all(hasattr(model.module, name) for name in ("forward_features", "forward_head", "num_features")):
        raise _no_map(model, "does not tell its head from what comes before, as timm's networks do")
    with ordinary_tensors(), torch.no_grad():
        features = model.module.forward_features(images)  # type: ignore[operator]
    if not isinstance(features, Tensor):
        raise _no_map(model, f"has several sets of features ({type(features).__name__})")
    return features


def _channel_axis(model: Model, features: Tensor) -> int:
    """Which axis of the features holds their channels: the second, or the last as in Swin."""
    if features.ndim == 4:
        channels = model.module.num_features
        for axis in (1, 3):
            if features.shape[axis] == channels:
                return axis
    raise _no_map(model, f"hands features of shape {tuple(features.shape[1:])} to its head")


def _no_map(model: Model, reason: str) -> ModelError:
    return ModelError(
        f"gradcam cannot explain {model.name}, which {reason}. It needs a map of features [c, h, w], as CNNs and "
        f"hierarchical transformers such as Swin have. For a plain ViT take token-gradcam or attention-gradcam."
    )
