"""The network of a watermarking run: how it looks at images at once, its weights only when something asks for them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nullspace_cli.engine.documents.artefacts import read_provenance
from nullspace_cli.engine.documents.kinds import BASIS, STEM_BASIS
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model import Model, ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.check import probe_images
from nullspace_cli.engine.nullspace.first_layer import (
    FirstLayer,
    ReadMap,
    find_first_layer,
    find_patches,
    reading_of,
)
from nullspace_cli.engine.nullspace.patch_embedding import PatchSpace
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

T = TypeVar("T")


class LazyModel:
    """A model that is loaded when it is first needed, once, from whichever thread.

    Args:
        basis: a file of `vitnull basis` to take the nullspace from; else it is computed.

    Raises:
        ArtifactError: `basis` is not a basis.
    """

    def __init__(self, request: ModelRequest, basis: Path | None = None) -> None:
        if basis:
            read_provenance(basis, BASIS, STEM_BASIS)
        self.request, self.basis = request, basis
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()

    @classmethod
    def of(cls, model: Model) -> "LazyModel":
        """One that is there already."""
        made = cls(ModelRequest(model.name, device=str(model.device), seed=model.seed))
        made._made["model"] = model
        return made

    @property
    def transform(self) -> EvalTransform:
        """The evaluation transform; without weights as long as nothing else has asked for them."""
        return self._about.transform

    @property
    def has_head(self) -> bool:
        """Whether the model has classes; known without its weights."""
        return self._about.has_head

    @property
    def model(self) -> Model:
        return self._once("model", self._load)

    @property
    def reading(self) -> ReadMap | None:
        """As `reading_of` the model."""
        return self._once("reading", lambda: reading_of(self.model))

    @property
    def first_layer(self) -> FirstLayer:
        """What the first layers read, and leave unread.

        Raises:
            NoNullspaceError: the model has no exact nullspace.
        """
        return self._once("first_layer", lambda: find_first_layer(self.model, self.basis))

    @property
    def patches(self) -> PatchSpace:
        """The patch embedding and its row space.

        Raises:
            NoNullspaceError: the model has no exact patch nullspace.
        """
        return self._once("patches", lambda: find_patches(self.model, basis=self.basis))

    def describe(self) -> dict[str, Any]:
        """The keys about the model that every JSON document carries; of the weights only if they were loaded."""
        return self._about.describe()

    @property
    def _about(self) -> Model | ModelView:
        """The model, if anything has asked for it; else what is known of it without its weights."""
        return self._made.get("model") or self._once("view", lambda: load_view(self.request))

    def _load(self) -> Model:
        """The model, which has been seen to answer: before anything is made of it, and written."""
        model = load_model(self.request)
        probe = model.transform.to_normalized(probe_images(model, 1, 0))
        model(probe, "a probe image")
        return model

    def _once(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            made: T = self._made[name]
            return made
