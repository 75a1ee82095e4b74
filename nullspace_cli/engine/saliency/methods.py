"""The methods by name: which there are, which a model has, and their maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import islice
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nullspace_cli.engine.errors import ModelError, UsageError
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.runtime.autograd import differentiating
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.saliency import attention, cnn, gradients, relevance, transformer

Family = Literal["tokens", "pixels", "features"]
Function = Callable[
    [Any, Float[Tensor, "b c h w"], Int[Tensor, " b"] | None],  # a model; of "tokens", its WatchedTransformer too
    Float[Tensor, "b gh gw"],
]


@dataclass(frozen=True)
class Method:
    """One way to say where a model looks.

    Attributes:
        name: as on the command line.
        function: normalised images and classes (None: each image's top-1) to maps on the method's own grid, float64, on
            the CPU, not normalised.
        family: what it explains by, hence which models it can explain: the "tokens" of plain ViTs, the last "features"
            of CNNs, the "pixels" of whatever has a gradient. It is the maps' grid, too, but for full LRP, which follows
            relevance through the tokens down to the pixels.
        reference: the paper.
        needs: what a model of the family must have besides; None for nothing.
    """

    name: str
    function: Function
    family: Family
    reference: str
    needs: Callable[[Model], bool] | None = None


METHODS = {
    method.name: method
    for method in (
        Method("attribution", relevance.attribution, "tokens", "Chefer et al. 2021", relevance.carries_relevance),
        Method("raw", attention.raw_attention, "tokens", "Chefer et al. 2021"),
        Method("rollout", attention.rollout, "tokens", "Abnar and Zuidema 2020"),
        Method("attention-gradcam", attention.attention_gradcam, "tokens", "Chefer et al. 2021"),
        Method("token-gradcam", attention.token_gradcam, "tokens", "Selvaraju et al. 2017"),
        Method("partial-lrp", relevance.partial_lrp, "tokens", "Voita et al. 2019", relevance.carries_relevance),
        Method(
            "full-lrp",
            relevance.full_lrp,
            "tokens",
            "Bach et al. 2015; Chefer et al. 2021",
            partial(relevance.carries_relevance, to_pixels=True),
        ),
        Method("gradient", gradients.gradient, "pixels", "Simonyan et al. 2014"),
        Method("input-x-gradient", gradients.input_x_gradient, "pixels", "Shrikumar et al. 2016"),
        Method("integrated-gradients", gradients.integrated_gradients, "pixels", "Sundararajan et al. 2017"),
        Method("smoothgrad", gradients.smoothgrad, "pixels", "Smilkov et al. 2017"),
        Method("gradcam", cnn.gradcam, "features", "Selvaraju et al. 2017"),
    )
}


DEFAULT_METHODS = ("attribution", "rollout", "token-gradcam", "gradcam", "gradient")
"""What people know, best known first; every model has some, if only its gradient."""


def supported(model: Model) -> tuple[str, ...]:
    """The methods that can explain the model: tokens for plain ViTs, features for CNNs, pixels for all."""
    able = _able(model)
    return tuple(name for name, method in METHODS.items() if able(method))


def default_methods(model: Model, most: int | None = None) -> list[Method]:
    """A few methods that people know, of those that can explain the model; at most `most`."""
    able = _able(model)
    known = (METHODS[name] for name in DEFAULT_METHODS[:-1])
    return list(islice(filter(able, known), most)) or [METHODS[DEFAULT_METHODS[-1]]]


def _able(model: Model) -> Callable[[Method], bool]:
    """Says of a method whether it can explain the model; asks of it only what was not asked before."""
    families: dict[Family, bool] = {
        "tokens": transformer.obstacle(model) is None,
        "pixels": True,
        "features": cnn.has_feature_map(model),
    }
    met = cache(lambda needs: bool(needs(model)))
    return lambda method: families[method.family] and (method.needs is None or met(method.needs))


def named(names: Sequence[str]) -> list[Method]:
    """The methods of these names, each once; all that there are where "all" is among them.

    Raises:
        UsageError: there is no method of a name.
    """
    unknown = [name for name in names if name not in METHODS and name != "all"]
    if unknown:
        raise UsageError(f"Unknown saliency method '{unknown[0]}'. Methods: {', '.join(METHODS)}, all.")
    return [METHODS[name] for name in dict.fromkeys(METHODS if "all" in names else names)]


def choose(model: Model, names: Sequence[str]) -> list[Method]:
    """The methods of these names, each once; with "all" among them all that can explain the model.

    Raises:
        UsageError: there is no method of a name.
        ModelError: a method cannot explain the model.
    """
    methods, able = named(names), _able(model)
    refused = [name for name in names if name != "all" and not able(METHODS[name])]
    if refused:
        raise ModelError(f"{refused[0]} cannot explain {model.name}. What can: {', '.join(supported(model))}.")
    return [method for method in methods if able(method)]


class SaliencyMaps:
    """The maps of one model, whose weights stay as they are: the token methods share one copy of it in float64."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def _watched(self) -> transformer.WatchedTransformer:
        return differentiating(transformer.WatchedTransformer)(self.model)

    @full_precision
    def __call__(
        self, images: Float[Tensor, "b c h w"], method: Method, classes: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b gh gw"]:
        """Where the model sees evidence for `classes` (None: each image's own top-1) in normalised images.

        Without a head, what is explained is 0.5 ||features||^2, and there is no class to name.

        Returns:
            On the method's own grid, float64, on the CPU, not normalised.

        Raises:
            UsageError: the model has no such class.
            ModelError: the map is not finite, as weights are that are too large.
        """
        model = self.model
        if classes is not None:
            wrong = [index for index in classes.tolist() if not 0 <= index < model.num_classes]
            if wrong:
                raise UsageError(
                    f"{model.name} has no class {wrong[0]}: it has {model.num_classes} classes, counted from 0."
                )
        maps = method.function(self._watched if method.family == "tokens" else model, images, classes)
        if not bool(maps.isfinite().all()):
            model.in_full_precision()(images.float())  # whose error, if its answers are not finite, names the layer
            raise ModelError(
                f"The map that {method.name} makes of {model.name} is not finite. Check its weights: {model.weights}."
            )
        return maps


def explain(
    model: Model,
    images: Float[Tensor, "b c h w"],
    method: Method,
    classes: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b gh gw"]:
    """One call of `SaliencyMaps`, for a model that is asked once."""
    return SaliencyMaps(model)(images, method, classes)


def upsampled(maps: Float[Tensor, "b gh gw"], size: tuple[int, int]) -> Float[Tensor, "b h w"]:
    """Maps on the grid of an image of `size` (h, w), bilinear; those that have it already stay as they are."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
