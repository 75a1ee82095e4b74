"""Noise over whole images, in pixel units, that first layers do not read, or hardly: what is common to both."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nullspace_cli.engine.errors import ArtifactError
from nullspace_cli.engine.nullspace.patch_embedding import Space
from nullspace_cli.engine.solvers.image_map import ImageMap


class ImageNoise(ABC):
    """A source of such noise.

    Attributes:
        image_map: a map of differences of images in `space` that reads little of the noise.
        layers: who reads the image, for people.
        space: "pixel" for differences of images in [0, 1], "normalized" for those of normalised ones.
        std: the model's, by which the two differ.
    """

    image_map: ImageMap
    layers: tuple[str, ...]
    space: Space
    std: tuple[float, ...]

    @abstractmethod
    def draw(self, seed: int) -> Float[Tensor, "c h w"]:
        """Noise in `space`, of any size.

        Raises:
            ArtifactError: it cannot be had as promised.
        """

    @property
    @abstractmethod
    def norm(self) -> float:
        """||A||, the measure of what is read."""

    def describe_reading(self) -> dict[str, Any]:
        """The keys of the JSON document that say who reads images, and of which size."""
        c, h, w = self.image_map.input_size
        return {
            "kind": "affine",
            "layers": list(self.layers),
            "in_chans": c,
            "image_size": [h, w],
            "patch_size": None,
        }

    def pixel_noise(self, size: tuple[int, int], std: float, seed: int) -> Float[Tensor, "c h w"]:
        """A sample over a model's whole input, in pixel units of root mean square `std`.

        Raises:
            ArtifactError: `size` is not what the map reads; or as `draw`.
        """
        if tuple(size) != self.image_map.input_size[1:]:
            own = " x ".join(map(str, self.image_map.input_size[1:]))
            raise ArtifactError(f"The nullspace is one of images of {own}; asked for noise of {size[0]} x {size[1]}.")
        noise = self.draw(seed)
        if self.space == "normalized":
            noise = noise * torch.tensor(self.std, dtype=noise.dtype)[:, None, None]
        return noise * (std / noise.square().mean().sqrt())

    def residual(self, noise: Float[Tensor, "c h w"]) -> float:
        """||A v|| of noise in pixel units, relative to ||A|| ||v||."""
        if self.space == "normalized":
            noise = noise / torch.tensor(self.std, dtype=noise.dtype)[:, None, None]
        return float(self.image_map.forward(noise[None].double()).norm() / (self.norm * noise.norm()))
