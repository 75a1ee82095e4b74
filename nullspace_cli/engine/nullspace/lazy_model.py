"""The network of a watermarking run: how it looks at images at once, its weights only when something asks for them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nullspace_cli.engine.documents.artefacts import read_provenance
from nullspace_cli.engine.documents.kinds import BASIS
from nullspace_cli.engine.models.loading import load_model, load_view
from nullspace_cli.engine.models.model import Model, ModelView
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.nullspace.basis import find_basis, patch_map_of
from nullspace_cli.engine.nullspace.basis_file import load_row_space
from nullspace_cli.engine.nullspace.check import probe_images
from nullspace_cli.engine.nullspace.patch_embedding import PatchMap, PatchSpace
from nullspace_cli.engine.transforms.eval_transform import EvalTransform

T = TypeVar("T")


class LazyModel:
    """A model that is loaded when it is first needed, once, from whichever thread.

    Args:
        basis: a file of `vitnull basis` to take the row space from; else it is computed.

    Raises:
        ArtifactError: `basis` is not a basis.
    """

    def __init__(self, request: ModelRequest, basis: Path | None = None) -> None:
        if basis:
            read_provenance(basis, BASIS)
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
    def patch_map(self) -> PatchMap | None:
        """The patch embedding, None where the model does not start with one."""
        return self._once("patch_map", lambda: patch_map_of(self.model))

    @property
    def patches(self) -> PatchSpace:
        """The patch embedding and its row space.

        Raises:
            NoNullspaceError: the model has no exact patch nullspace.
        """
        return self._once("patches", self._find_patches)

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

    def _find_patches(self) -> PatchSpace:
        patch_map = self.patch_map
        if self.basis and patch_map:
            return PatchSpace(patch_map, load_row_space(self.basis, self.model, patch_map))
        found = find_basis(self.model)
        return PatchSpace(found.patch_map, found.nullspace.row_space.flatten(1))

    def _once(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            made: T = self._made[name]
            return made
