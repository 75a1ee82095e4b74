"""Models: their names, weights and data configuration, and what they answer. The only place that knows timm."""

import difflib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from nullspace_cli.demo.drawing import CLASSES
from nullspace_cli.demo.models import DEMO_MODELS, WEIGHTS
from nullspace_cli.engine.documents.base import describe, read_json
from nullspace_cli.engine.documents.model_folder import MAX_SIZE, ModelFolder
from nullspace_cli.engine.documents.parts import DataConfig
from nullspace_cli.engine.errors import ModelError, UsageError, first_line, is_out_of_memory
from nullspace_cli.engine.files.hashes import hash_state
from nullspace_cli.engine.files.hub import hub_access
from nullspace_cli.engine.models.checkpoints import (
    load_checkpoint,
    read_state,
    require_file,
    require_finite,
    require_floats,
    weights_in,
)
from nullspace_cli.engine.models.stem import Stem, find_stem
from nullspace_cli.engine.runtime.autograd import ordinary, ordinary_tensors
from nullspace_cli.engine.runtime.module_copies import rewired, standing_in
from nullspace_cli.engine.runtime.out_of_memory import in_chunks
from nullspace_cli.engine.runtime.precision import full_precision
from nullspace_cli.engine.runtime.process import WITHOUT_WARNINGS
from nullspace_cli.engine.transforms.evaluation import EvalTransform

Amp = Literal["none", "bf16", "fp16"]
NETWORK_PACKAGES = ("huggingface_hub", "httpx", "httpcore", "requests", "urllib3")
_BUILDING = threading.Lock()
"""timm draws weights from the generator of the process: one model at a time."""

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelRequest:
    """Which model, with which weights, where.

    Attributes:
        name: a timm name with or without tag, "hf-hub:org/name", "local-dir:path", "demo" or "demo-cnn".
        checkpoint: a weights file (safetensors, pth, npz) to load instead of the published weights.
        pretrained: False for random weights, drawn from `seed`.
        kwargs: further arguments of `timm.create_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        amp: precision of forward passes under autocast.
        batch_size: images in one forward pass.
        offline: use cached weights only.
    """

    name: str
    checkpoint: Path | None = None
    pretrained: bool = True
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    amp: Amp = "none"
    batch_size: int = 32
    offline: bool = False
    seed: int = 0


class Outputs(NamedTuple):
    """What a model says of a batch: logits [b, k], None without a head, and the features [b, f] before the head."""

    logits: Float[Tensor, "b k"] | None
    features: Float[Tensor, "b f"]

    @property
    def answer(self) -> Float[Tensor, "b k"]:
        """What the model is asked for: its logits, or the features of a model without a head."""
        return self.features if self.logits is None else self.logits


@dataclass(frozen=True)
class LoadedModel:
    """A built model with its weights, ready to be asked.

    Attributes:
        name: full timm name with tag, or the hf-hub: / local-dir: name as it was given.
        weights: where they came from: "pretrained", "embedded", "random" or the checkpoint's path.
        weights_sha256: over the state dictionary (`artefacts.hash_state`).
        transform: the model's evaluation transform, at the *built* model's input size.
        seed: what random weights were drawn from.
        labels: the name of each class, where known; of ImageNet's, synonyms with commas between them.
        synsets: the WordNet synset of each class ("n01440764"), where its classes are ImageNet's.
    """

    module: nn.Module
    name: str
    weights: str
    weights_sha256: str
    transform: EvalTransform
    device: torch.device
    amp: Amp
    batch_size: int
    seed: int
    labels: tuple[str, ...] | None
    synsets: tuple[str, ...] | None = None

    def in_full_precision(self) -> "LoadedModel":
        """The same model in full precision: what decides whether something is exact must not round by itself."""
        return replace(self, amp="none")

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b c h w"]) -> Outputs:
        """Logits and features of normalised images, `batch_size` or fewer at a time, as float32 on the CPU."""
        parts: list[Outputs] = []

        def ask(start: int, stop: int) -> None:
            logits, features = self.forward(images[start:stop])
            parts.append(Outputs(None if logits is None else logits.cpu(), features.cpu()))

        in_chunks(ask, len(images), self.batch_size)
        logits = [part.logits for part in parts if part.logits is not None]
        return Outputs(torch.cat(logits) if logits else None, torch.cat([part.features for part in parts]))

    @full_precision  # but for what `amp` asks for
    def forward(self, images: Float[Tensor, "b c h w"]) -> Outputs:
        """One forward pass, whose outputs stay on the device, as float32, with gradients where the caller wants them.

        The features are whatever reaches the classifier, or the output of a model without one.
        """
        seen: list[Tensor] = []
        head = classifier_of(self.module)
        module = rewired(self.module, {head: standing_in(head, _noting(head, seen))}) if head else self.module
        kind = AMP_TYPES.get(self.amp)
        with ordinary_tensors(), torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            answer = module(ordinary(images).to(self.device, torch.float32))
            features = (seen[0] if seen else answer).flatten(1).float()
            seen.clear()
            return Outputs(answer.float() if head else None, features)

    @property
    def num_classes(self) -> int:
        """How many classes the model tells apart; 0 without a head."""
        return int(getattr(self.module, "num_classes", 0))

    @property
    def has_head(self) -> bool:
        return classifier_of(self.module) is not None

    def answer(self, index: int, probability: float | None) -> dict[str, Any]:
        """The keys of JSON documents for a class that was predicted."""
        return {"class": index, "label": self.label(index), "probability": probability}

    def label(self, index: int) -> str | None:
        return self.labels[index] if self.labels and index < len(self.labels) else None

    def stem(self) -> Stem:
        """How the network reads the image.

        Raises:
            ModelError: the model does not accept an image of its own input size.
        """
        try:
            return find_stem(self.module, self.transform.input_size)
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            size = " x ".join(map(str, self.transform.input_size))
            raise ModelError(f"{self.name} does not accept an image of {size}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """The keys about the model that every JSON document carries."""
        return {
            "model": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "data_config": asdict(self.transform),
            "device": str(self.device),
        }


def _noting(layer: nn.Module, seen: list[Tensor]) -> Callable[..., Any]:
    """What the layer answers; its first input goes to `seen`."""

    def forward(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(first)
        return layer(first, *args, **kwargs)

    return forward


def finite(outputs: Outputs, model: LoadedModel, of: str) -> Outputs:
    """What a model says, if it says something.

    Args:
        of: what the model was shown, for the message.

    Raises:
        ModelError: not all of it are finite numbers.
    """
    for name, values in outputs._asdict().items():
        if values is not None and not bool(values.isfinite().all()):
            hint = "Check them." if model.amp == "none" else "Check them, or use --amp bf16 or none."
            raise ModelError(
                f"{model.name} answers {of} with {name} that are not finite numbers, with these weights: "
                f"{model.weights}. {hint}"
            )
    return outputs


@dataclass(frozen=True)
class ModelView:
    """How a model looks at images: all that is known of it without its weights.

    Attributes:
        name: as `LoadedModel.name`.
        transform: the same as `LoadedModel.transform`.
        has_head: the same as `LoadedModel.has_head`.
    """

    name: str
    transform: EvalTransform
    has_head: bool

    def describe(self) -> dict[str, Any]:
        """The keys of `LoadedModel.describe`; no weights were read, and nothing was put on a device."""
        return {
            "model": self.name,
            "weights": None,
            "weights_sha256": None,
            "data_config": asdict(self.transform),
            "device": "cpu",
        }


def classifier_of(module: nn.Module) -> nn.Module | None:
    """The layer that turns features into logits; the first one where a distilled model has two."""
    if getattr(module, "num_classes", 0) == 0:
        return None
    head = module.get_classifier()  # type: ignore[operator]
    head = head[0] if isinstance(head, tuple | list | nn.ModuleList) else head
    return head if isinstance(head, nn.Module) and not isinstance(head, nn.Identity) else None


def best_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(name: str) -> torch.device:
    """ "auto" is the best device; anything asked for by name must exist."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"Unknown device '{name}': expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"The device {name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices here."
        )
    return device


@ordinary_tensors()
def load_model(request: ModelRequest) -> LoadedModel:
    """Build a model, give it its weights and put it on its device, in evaluation mode.

    Raises:
        ModelError: the name is unknown, the weights could not be had or do not fit, or CUDA is missing. Random weights
            are never substituted for weights that were asked for.
    """
    if request.checkpoint is not None:
        require_file(request.checkpoint)  # before anything slow
    device = resolve_device(request.device)
    demo = DEMO_MODELS.get(request.name)
    with WITHOUT_WARNINGS:
        if demo:
            own = replace(request, kwargs={**demo.model_kwargs, **request.kwargs})
            _refuse_arguments(request.kwargs, request.name)
            if not _is_modest(request.kwargs):
                with torch.device("meta"), _within_bounds(request.name):
                    _create(own, demo.architecture)
            module, name = _create(own, demo.architecture), request.name
            weights = _fill(module, request, WEIGHTS / demo.weights)
            config = dict(demo.data_config)
        else:
            module, name, weights = _build(request)
            config = _data_config(module, name)
    require_finite(module.state_dict(), f"{name} ({weights})")
    module.eval().requires_grad_(False)
    weights_sha256 = hash_state(module.state_dict())  # here: from a device they would have to come back
    labels, synsets = (CLASSES, None) if demo else _imagenet_classes(module)
    return LoadedModel(
        module=module.to(device),
        name=name,
        weights=weights,
        weights_sha256=weights_sha256,
        transform=_transform(config, name),
        device=device,
        amp=request.amp,
        batch_size=request.batch_size,
        seed=request.seed,
        labels=labels,
        synsets=synsets,
    )


def load_view(request: ModelRequest) -> ModelView:
    """The evaluation transform of the model that `load_model` would build, at once and without its weights.

    The model is built on PyTorch's meta device, where tensors have shapes and no memory; weights, device and seed of
    the request play no part.

    Raises:
        ModelError: as `load_model`, as far as it concerns the name, the arguments and the configuration.
    """
    demo = DEMO_MODELS.get(request.name)
    if demo:
        classes = {**demo.model_kwargs, **request.kwargs}["num_classes"]
        transform = _transform(demo.data_config, request.name)
        return ModelView(request.name, transform, isinstance(classes, int) and classes > 0)
    with WITHOUT_WARNINGS, torch.device("meta"):
        module, name, _ = _build(replace(request, checkpoint=None, pretrained=False), surveyed=True)
        transform = _transform(_data_config(module, name), name)
        return ModelView(name, transform, classifier_of(module) is not None)


def _build(request: ModelRequest, *, surveyed: bool = False) -> tuple[nn.Module, str, str]:
    """A model by its timm, hub or folder name: the module, its full name, and where its weights came from.

    Args:
        surveyed: whether this is the model without memory already, by which what cannot be built is found out.
    """
    name = request.name
    published = request.pretrained and request.checkpoint is None
    folder = _folder_of(name)
    config = _read_folder(folder) if folder else {}
    _refuse_arguments({**(config.get("model_args") or {}), **request.kwargs}, name)
    if not surveyed and not (_is_modest(request.kwargs) and _is_modest(config)):
        load_view(request)  # refuses what is too large, at the expense of no memory
    file = weights_in(folder) if folder and published else None
    types = _types_in(file, name) if file else {}
    if published and ":" not in name:
        _require_published(name)
    with _within_bounds(name) if surveyed else nullcontext():
        if name.startswith("hf-hub:") or (published and not folder):
            with hub_access(offline=request.offline):
                module = _create(request, name, pretrained=published)
        else:
            module = _create(request, name, pretrained=published)
    if file:
        require_floats(module.state_dict(), types, file)
    cfg = getattr(module, "pretrained_cfg", None) or {}
    if ":" not in name and cfg.get("architecture"):
        name = ".".join(part for part in (cfg["architecture"], cfg.get("tag")) if part)
    return module, name, "pretrained" if published else _fill(module, request)


def _fill(module: nn.Module, request: ModelRequest, embedded: Path | None = None) -> str:
    """Load the weights file that was asked for, if any, into a freshly built module; say where its weights are from."""
    file = request.checkpoint or (embedded if request.pretrained else None)
    if file is None:
        return "random"
    load_checkpoint(module, file)
    return str(request.checkpoint or "embedded")


def _create(request: ModelRequest, name: str, *, pretrained: bool = False) -> nn.Module:
    """`timm.create_model` with its many ways to fail put into words."""
    import timm

    cache = os.environ.get("VITNULL_CACHE")
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(request.seed)  # `torch.manual_seed` would seed those of all GPUs too
        try:
            module: nn.Module = timm.create_model(name, pretrained=pretrained, cache_dir=cache, **request.kwargs)
        except Exception as error:  # whatever goes wrong in there goes wrong with this name, these arguments or files
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            if _folder_of(name) and not request.kwargs:
                raise _unloadable(name, error) from error
            if isinstance(error, TypeError):
                raise ModelError(f"{name} does not take these model arguments: {error}. See --model-kwargs.") from error
            if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in NETWORK_PACKAGES:
                raise _unfetched(name, error) from error
            raise _unbuildable(name, error) from error
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        raise ModelError(f"{name} has no weights, built with these arguments. See --model-kwargs.")
    return module


# What is asked for, before it is built

BENIGN = {"num_classes": 2**17, "img_size": 1024, "in_chans": 16, "input_size": 1024, "num_features": 2**14}
"""Up to which number an argument makes no model that does not fit; others up to 64."""
MAX_TENSORS = 10_000
"""Parameters and buffers of a model; the largest of timm have some thousand."""
UNUSABLE = {
    "checkpoint_path": "Give weights with --checkpoint FILE.",
    "features_only": "What it answers are many maps, and no logits or features.",
    "scriptable": "Gradients of a scripted model are not its own.",
    "device": "Choose it with --device.",
    "dtype": "Weights are taken in single precision; see --amp.",
}


def _folder_of(name: str) -> Path | None:
    """The folder that a name means; timm reads the first part of the name in lower case."""
    source, colon, folder = name.partition(":")
    return Path(folder) if colon and source.lower() == "local-dir" else None


def _read_folder(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, which has been checked.

    Raises:
        ModelError: there is none, or one of its keys is not what it should be.
    """
    import timm

    expected = "a folder with a config.json that names the architecture, and its weights"
    try:
        config = read_json(folder / "config.json", expected, ModelError)
        ModelFolder.read(config, str(folder / "config.json"), ModelError)
        if not timm.is_model(config["architecture"]):
            close = difflib.get_close_matches(config["architecture"], timm.list_models(), n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ModelError(f"its config.json names the architecture {config['architecture']!r}; timm has none.{hint}")
    except ModelError as error:
        raise ModelError(f"Cannot load local-dir:{folder}: {error}") from error
    return dict(config)


def _types_in(file: Path, name: str) -> dict[str, torch.dtype]:
    """The types of weights that timm will load by itself, taking whatever can be made into numbers."""
    try:
        return {key: value.dtype for key, value in read_state(file).items()}
    except ModelError as error:
        raise ModelError(f"Cannot load {name}: {error}") from error


def _refuse_arguments(arguments: Mapping[str, Any], model: str) -> None:
    for name, why in UNUSABLE.items():
        if arguments.get(name):
            raise ModelError(f"The argument {name} of {model} cannot be used here. {why}")
    for name, value in arguments.items():
        if _largest(value) > MAX_SIZE:
            raise ModelError(
                f"The argument {name} of {model} is {describe(value)}; nothing in a model is more than {MAX_SIZE}."
            )


def _is_modest(arguments: Mapping[str, Any]) -> bool:
    return all(
        _is_modest(value) if isinstance(value, Mapping) else _largest(value) <= BENIGN.get(name, 64)
        for name, value in arguments.items()
    )


def _largest(value: Any) -> float:
    """The largest magnitude of the numbers in a value, however it is nested."""
    if isinstance(value, Mapping):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list | tuple | set):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


@contextmanager
def _within_bounds(name: str) -> Iterator[None]:
    """Refuse, while it is being built, a model that does not fit into this machine's memory.

    PyTorch calls these hooks for all modules that are built meanwhile; those of other threads are let through.

    Raises:
        ModelError: it has too many parameters.
    """
    room, builder = _memory(), threading.get_ident()
    count = held = 0

    def counted(_: nn.Module, __: str, tensor: Tensor | None) -> None:
        nonlocal count, held
        if tensor is None or threading.get_ident() != builder:
            return
        count, held = count + 1, held + tensor.numel() * tensor.element_size()
        if count > MAX_TENSORS or held > room:
            size = f"{count} tensors" if count > MAX_TENSORS else f"{held / 2**30:.0f} GiB"
            raise ModelError(
                f"{name} with these arguments has more than {size} of weights; this machine has "
                f"{room / 2**30:.0f} GiB of memory. See --model-kwargs."
            )

    hooks = [register_module_parameter_registration_hook(counted), register_module_buffer_registration_hook(counted)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _memory() -> int:
    """Bytes of this machine's memory; where that cannot be asked, enough for any published model."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**36


def _unloadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"Cannot load {name}: {type(error).__name__}: {first_line(error)}. Expected a folder with a config.json that "
        f"names the architecture, and its weights (model.safetensors or pytorch_model.bin)."
    )


def _unfetched(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"The weights of {name} could not be fetched, nor are they in the local cache ({first_line(error)}). "
        f"Go online, or give the weights with --checkpoint FILE, use local-dir:PATH, or try the embedded models: demo, "
        f"demo-cnn."
    )


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
            f"timm publishes no weights for {name}. Give your own with --checkpoint FILE, or use --no-pretrained "
            f"for random ones."
        )


def _data_config(module: nn.Module, name: str) -> dict[str, Any]:
    """timm's data configuration, with the input size of the model as it was built, not as it was once trained.

    Raises:
        ModelError: a value in it is not of the type that it should be.
    """
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(module)
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    DataConfig.read(lists, f"The data config of {name}", ModelError)
    channels = getattr(module, "in_chans", config["input_size"][0])
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    built = built or (getattr(module, "_traits", None) or {}).get("img_size")
    size = built or config["input_size"][1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    config["input_size"] = (int(channels), *size)
    for key in ("mean", "std"):
        values = tuple(config[key])
        config[key] = values if len(values) == channels else (values * channels)[:channels]
    return config


def _transform(config: Mapping[str, Any], name: str) -> EvalTransform:
    """The evaluation transform of a model's data configuration; what is wrong with that names the model."""
    try:
        return EvalTransform.from_data_config(config)
    except ModelError as error:
        raise ModelError(f"{name} cannot read images. {error}") from error


def _imagenet_classes(module: nn.Module) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Names and synsets of the classes, where the model's pretraining says that they are ImageNet's or its subsets'."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    cfg = getattr(module, "pretrained_cfg", None) or {}
    if getattr(module, "num_classes", 0) != cfg.get("num_classes"):
        return None, None
    subset = infer_imagenet_subset(module)
    if subset is None:
        return None, None
    info = ImageNetInfo(subset)
    return tuple(info.label_descriptions()), tuple(info.label_names())
