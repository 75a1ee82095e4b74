"""Models by their names: built with timm, given their weights, and put on their device."""

import difflib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nullspace_cli.demo.drawing import CLASSES
from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS
from nullspace_cli.engine.documents.base import read_json
from nullspace_cli.engine.documents.class_names import EXPECTED, read_class_names
from nullspace_cli.engine.documents.model_folder import ModelFolder
from nullspace_cli.engine.errors import ModelError, first_line, is_out_of_memory
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.files.hub import failed_fetch, hub_access, is_failed_fetch
from nullspace_cli.engine.files.reading import require_regular
from nullspace_cli.engine.models.arguments import SEE_KWARGS, is_modest, refuse_arguments, within_bounds
from nullspace_cli.engine.models.checkpoints import load_checkpoint, require_finite, require_floats
from nullspace_cli.engine.models.data_config import data_config_of, transform_of
from nullspace_cli.engine.models.devices import resolve_device
from nullspace_cli.engine.models.fitting import Conversion, splits
from nullspace_cli.engine.models.known_views import recall, remember
from nullspace_cli.engine.models.model import IMAGES, Model, ModelView, classifier_of
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.transformers_hub import fetched_folder
from nullspace_cli.engine.models.transformers_twin import is_transformers, synsets_of, twin_of
from nullspace_cli.engine.models.transformers_weights import converted
from nullspace_cli.engine.models.weights_file import is_index, read_weights, require_file, require_usable, weights_in
from nullspace_cli.engine.runtime.autograd import ordinary_tensors
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS

SOURCES = ("hf-hub", "hf_hub", "local-dir")
_BUILDING = threading.Lock()
"""timm draws weights from the generator of the process: one model at a time."""


@ordinary_tensors()
def load_model(request: ModelRequest) -> Model:
    """Build a model, give it its weights and put it on its device, in evaluation mode.

    Raises:
        ModelError: the name is unknown, the weights could not be had or do not fit, or CUDA is missing. Random weights
            are never substituted for weights that were asked for.
    """
    if request.checkpoint is not None:
        require_file(request.checkpoint)  # before anything slow
    if request.class_names is not None:
        require_regular(request.class_names, EXPECTED, ModelError)
    device = resolve_device(request.device)
    demo = DEMO_MODELS.get(request.name)
    with WITHOUT_WARNINGS:
        if demo:
            own = replace(request, kwargs={**demo.model_kwargs, **request.kwargs})
            refuse_arguments(request.kwargs, request.name)
            if not is_modest(request.kwargs):
                with torch.device("meta"), within_bounds(request.name):
                    _create(own, demo.architecture)
            module = _create(own, demo.architecture)
            weights = _fill(module, request, WEIGHTS / demo.weights, "embedded")
            built, config = _Built(module, request.name, weights, CLASSES, None), dict(demo.data_config)
        else:
            built = _build(request)
            config = data_config_of(built.module, built.name)
    module, name, weights, labels, synsets = built
    if request.class_names is not None:
        labels = read_class_names(request.class_names, int(getattr(module, "num_classes", 0)))
    require_finite(module.state_dict(), f"{name} ({weights})")
    module.eval().requires_grad_(False)
    weights_sha256 = hash_state(module.state_dict())  # here: from a device they would have to come back
    return Model(
        module=module.to(device),
        name=name,
        weights=weights,
        weights_sha256=weights_sha256,
        transform=transform_of(config, name),
        device=device,
        amp=request.amp,
        batch_size=request.batch_size or IMAGES,
        seed=request.seed,
        labels=labels,
        synsets=synsets,
        by_memory=request.batch_size is None,
    )


def load_view(request: ModelRequest) -> ModelView:
    """The evaluation transform of the model that `load_model` would build, at once and without its weights.

    The first time the model is built on PyTorch's meta device, where tensors have shapes and no memory; later runs know
    of it (`known_views`). Weights, device and seed of the request play no part.

    Raises:
        ModelError: as `load_model`, as far as it concerns the name, the arguments and the configuration.
    """
    demo = DEMO_MODELS.get(request.name)
    if demo:
        classes = {**demo.model_kwargs, **request.kwargs}["num_classes"]
        transform = transform_of(demo.data_config, request.name)
        return ModelView(request.name, transform, isinstance(classes, int) and classes > 0)
    if known := recall(request):
        return known
    with WITHOUT_WARNINGS, torch.device("meta"):
        module, name, *_ = _build(
            replace(request, checkpoint=None, checkpoint_key=None, pretrained=False), surveyed=True
        )
        transform = transform_of(data_config_of(module, name), name)
        view = ModelView(name, transform, classifier_of(module) is not None)
    remember(request, view)
    return view


class _Built(NamedTuple):
    """A module, its full name, where its weights came from, and its classes' names and synsets, where known."""

    module: nn.Module
    name: str
    weights: str
    labels: tuple[str, ...] | None
    synsets: tuple[str, ...] | None


def _build(request: ModelRequest, *, surveyed: bool = False) -> _Built:
    """A model by its timm, hub or folder name.

    Args:
        surveyed: whether this is the model without memory already, by which what cannot be built is found out.
    """
    name = request.name
    _require_source(name)
    published = request.pretrained and request.checkpoint is None
    folder = _folder_of(name)
    written = folder or _fetched(request)
    config = _read_folder(written, name) if written else {}
    if written and is_transformers(config):
        return _build_twin(request, written, surveyed=surveyed)
    refuse_arguments({**(config.get("model_args") or {}), **request.kwargs}, name)
    if not surveyed and not (is_modest(request.kwargs) and is_modest(config)):
        load_view(request)  # refuses what is too large, at the expense of no memory
    file = weights_in(folder) if folder and published else None
    index = file if file and is_index(file) else None
    by_timm = published and not index  # which takes no weights from several files
    types = _types_in(file, name) if file and by_timm else {}
    if published and ":" not in name:
        _require_published(name)
    with within_bounds(name) if surveyed else nullcontext():
        if _hub_name(name) or (published and not folder):
            with hub_access(offline=request.offline):
                module = _create(request, name, pretrained=published)
        else:
            module = _create(request, name, pretrained=by_timm, file=file if by_timm else None)
    if file:
        require_floats(module.state_dict(), types, file)
    cfg = getattr(module, "pretrained_cfg", None) or {}
    if ":" not in name and cfg.get("architecture"):
        name = ".".join(part for part in (cfg["architecture"], cfg.get("tag")) if part)
    weights = "pretrained" if by_timm else _fill(module, request, index, "pretrained")
    return _Built(module, name, weights, *_classes_of(module))


def _build_twin(request: ModelRequest, folder: Path, *, surveyed: bool) -> _Built:
    """timm's network for a model that transformers wrote."""
    name = request.name
    published = request.pretrained and request.checkpoint is None
    with _cannot_load(name):
        twin = twin_of(folder)
        file = weights_in(folder) if published else None
        if published and file is None:
            raise ModelError(f"{folder} holds no weights. Expected model.safetensors or pytorch_model.bin.")
    refuse_arguments(request.kwargs, name)
    own = replace(request, kwargs={**twin.arguments, **request.kwargs})
    build = partial(_create, own, twin.architecture, finish=twin.finish, called=name)
    if not surveyed and not is_modest(own.kwargs):
        with torch.device("meta"), within_bounds(name):
            build()
    with within_bounds(name) if surveyed else nullcontext():
        module = build()
    conversion = partial(converted, layout=twin.layout, module=module)
    weights = _fill(module, request, file, "pretrained", conversion)
    labels = twin.labels if twin.labels and len(twin.labels) == getattr(module, "num_classes", 0) else None
    return _Built(module, name, weights, labels, synsets_of(labels))


def _fill(
    module: nn.Module, request: ModelRequest, own: Path | None, whence: str, conversion: Conversion | None = None
) -> str:
    """Load the weights file that was asked for, if any, into a freshly built module; say where its weights are from.

    Args:
        own: the model's own file, and `whence` it is.
        conversion: as of `load_checkpoint`.
    """
    file = request.checkpoint or (own if request.pretrained else None)
    if file is None:
        return "random"
    load_checkpoint(module, file, request.checkpoint_key, conversion=conversion)
    return str(request.checkpoint or whence)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Whoever loads a pickle gets its tensors: timm before 1.0.26 asks PyTorch to run what else it holds."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _create(
    request: ModelRequest,
    name: str,
    *,
    pretrained: bool = False,
    file: Path | None = None,
    called: str | None = None,
    finish: Callable[[nn.Module], None] = lambda module: None,
) -> nn.Module:
    """`timm.create_model` with its many ways to fail put into words.

    Args:
        file: the weights, where they are a folder's: timm before 1.0.26 cannot read those in safetensors there.
        called: what messages call the model, if not `name`.
        finish: what is built in afterwards, with random numbers of the same seed.
    """
    import timm

    cache = os.environ.get("VITNULL_CACHE")
    own = {"pretrained_cfg_overlay": {"source": "", "file": str(file), "custom_load": False}} if file else {}
    with _BUILDING, _weights_only(), torch.random.fork_rng(devices=[]), _in_words(called or name, request):
        torch.default_generator.manual_seed(request.seed)  # `torch.manual_seed` would seed those of all GPUs too
        module: nn.Module = timm.create_model(name, pretrained=pretrained, cache_dir=cache, **own, **request.kwargs)
        finish(module)
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        raise ModelError(f"{called or name} has no weights, built with these arguments.", hint=SEE_KWARGS)
    return module


@contextmanager
def _in_words(name: str, request: ModelRequest) -> Iterator[None]:
    """Whatever goes wrong within goes wrong with this name, these arguments or files."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ModelError) or is_out_of_memory(error):
            raise
        if _folder_of(name) and not request.kwargs:
            raise _unloadable(name, error) from error
        if isinstance(error, TypeError):
            raise ModelError(f"{name} does not take these model arguments: {error}.", hint=SEE_KWARGS) from error
        if is_failed_fetch(error):
            raise failed_fetch(name, error, _repository_of(name), os.environ.get("VITNULL_CACHE")) from error
        raise _unbuildable(name, error) from error


@contextmanager
def _cannot_load(name: str) -> Iterator[None]:
    """Say of what is wrong with a file whose model it belongs to."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"Cannot load {name}: {error}") from error


def _require_source(name: str) -> None:
    """A hub's or a folder's name says so: timm before 1.0.29 takes ORG/NAME for its own model NAME.

    Raises:
        ModelError: it does not, or it says something else.
    """
    source, colon, _ = name.partition(":")
    if not colon and ("/" in name or "\\" in name):
        raise ModelError(
            f"{name} could not be built: timm's own names have no slash. A model of the hub is hf-hub:{name}, "
            f"one in a folder local-dir:{name}."
        )
    if colon and source.lower() not in SOURCES:
        raise ModelError(
            f"{name} could not be built: Unknown model source '{source}'. Give hf-hub:ORG/NAME, local-dir:PATH or a "
            "name of timm's."
        )


def _folder_of(name: str) -> Path | None:
    """The folder that a name means; timm reads the first part of the name in lower case."""
    source, colon, folder = name.partition(":")
    return Path(folder) if colon and source.lower() == "local-dir" else None


def _hub_name(name: str) -> str | None:
    """The repository on the hub, "owner/name" or "owner/name@revision", that a name means by itself."""
    source, colon, repository = name.partition(":")
    return repository if colon and source.lower() in ("hf-hub", "hf_hub") else None


def _fetched(request: ModelRequest) -> Path | None:
    """The folder that a model of transformers' has been fetched to; None for timm's, which fetches its own."""
    repository = _hub_name(request.name)
    if not repository:
        return None
    published = request.pretrained and request.checkpoint is None
    with hub_access(offline=request.offline), _in_words(request.name, request), _cannot_load(request.name):
        return fetched_folder(repository, weights=published, cache=os.environ.get("VITNULL_CACHE"))


def _read_folder(folder: Path, name: str) -> dict[str, Any]:
    """The config.json of a folder; timm's has been checked.

    Raises:
        ModelError: there is none, or one of its keys is not what it should be.
    """
    import timm

    expected = "a folder with a config.json that names the architecture, and its weights"
    with _cannot_load(name):
        config = read_json(folder / "config.json", expected, ModelError)
        if is_transformers(config):
            return dict(config)
        ModelFolder.read(config, str(folder / "config.json"), ModelError)
        if not timm.is_model(config["architecture"]):
            close = difflib.get_close_matches(config["architecture"], timm.list_models(), n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ModelError(f"its config.json names the architecture {config['architecture']!r}; timm has none.{hint}")
    return dict(config)


def _types_in(file: Path, name: str) -> dict[str, torch.dtype]:
    """The types of weights that timm will load by itself, taking whatever can be made into numbers.

    Under the names that they have in the file, and in each of its dictionaries and wrappers.
    """
    with _cannot_load(name):
        state = read_weights(file)
        require_usable(state, file)
        return {rest: value.dtype for key, value in state.items() for _, rest in splits(key)}


def _unloadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"Cannot load {name}: {type(error).__name__}: {first_line(error)}. Expected a folder with a config.json that "
        f"names the architecture, and its weights (model.safetensors or pytorch_model.bin)."
    )


def _repository_of(name: str) -> str | None:
    """The repository on the hub that a name stands for; those of timm's names too."""
    import timm

    if repository := _hub_name(name):
        return repository
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None
    return config.hf_hub_id if config else None


def _unbuildable(name: str, error: Exception) -> ModelError:
    import timm

    text = str(error).strip() or type(error).__name__
    base, _, tag = name.partition(".")
    if ":" not in name and "/" not in name and not timm.is_model(base):
        close = difflib.get_close_matches(base, [*timm.list_models(), *DEMO_MODELS], n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return ModelError(
            f"timm {timm.__version__} has no model '{name}'.{hint} Names: timm.list_models(), demo, demo-cnn."
        )
    if tag and "pretrained tag" in text:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(base)]
        return ModelError(f"{base} has no weights tagged '{tag}'. Its tags: {', '.join(tags) or 'none'}.")
    return ModelError(f"{name} could not be built: {text}")


def _require_published(name: str) -> None:
    """Say so before building a large model whose weights nobody publishes; an unknown name is reported by `_create`."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return
    if cfg is not None and not cfg.has_weights:
        raise ModelError(
            f"timm publishes no weights for {name}.",
            hint="Give your own as `checkpoint`, or use `pretrained=False` for random ones.",
        )


def _classes_of(module: nn.Module) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Names and synsets of the classes, where the model's pretraining names them.

    Where it does not, and they are as many as ImageNet's or a subset's, they are these.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    cfg = getattr(module, "pretrained_cfg", None) or {}
    if getattr(module, "num_classes", 0) != cfg.get("num_classes"):
        return None, None
    subset = infer_imagenet_subset(module)
    imagenet = ImageNetInfo(subset) if subset else None
    names, descriptions = cfg.get("label_names"), cfg.get("label_descriptions")
    names = list(names) if isinstance(names, list | tuple) else []
    if names and len(names) == cfg["num_classes"] and not (imagenet and names == imagenet.label_names()):
        described = descriptions if isinstance(descriptions, dict) else {}
        labels = tuple(str(described.get(name, name)) for name in names)
        return labels, synsets_of(labels)
    return (tuple(imagenet.label_descriptions()), tuple(imagenet.label_names())) if imagenet else (None, None)
