"""Folder names read as a model's classes."""

from dataclasses import replace

import pytest
from timm.data import ImageNetInfo

from nullspace_cli.demo.drawing import CLASSES
from nullspace_cli.engine.errors import UsageError
from nullspace_cli.engine.models.classes import class_index, ground_truth
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model import Model
from nullspace_cli.engine.models.model_request import ModelRequest

IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
)  # fmt: skip
TINY = {"depth": 1, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model(ModelRequest("demo", device="cpu"))


@pytest.fixture(scope="module")
def imagenet() -> Model:
    return load_model(ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs=TINY, device="cpu"))


def test_synsets(imagenet: Model) -> None:
    """Imagenette's ten classes of ImageNet's thousand, by the numbers that its users know."""
    expected = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    assert ground_truth(imagenet, IMAGENETTE) == (expected, "folders are synsets", None)


def test_synsets_of_a_larger_imagenet() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    model = load_model(ModelRequest(name, pretrained=False, kwargs=TINY, device="cpu"))
    found = ground_truth(model, IMAGENETTE).classes
    names = ImageNetInfo("imagenet-21k-goog").label_names()
    assert found is not None
    assert [names[index] for index in found] == list(IMAGENETTE)


def test_a_head_of_ones_own_has_no_synsets() -> None:
    model = load_model(
        ModelRequest("vit_tiny_patch16_224", pretrained=False, kwargs={**TINY, "num_classes": 10}, device="cpu")
    )
    assert (model.synsets, model.labels) == (None, None)
    found, note, doubt = ground_truth(model, IMAGENETTE)
    assert found == tuple(range(10))
    assert "sorted order" in note
    assert doubt is None  # nothing is known of its classes that could speak against it
    assert ground_truth(model, IMAGENETTE, in_order=False).classes is None


def test_sorted_order_against_known_names_is_doubted(demo: Model) -> None:
    folders = ("star", *(f"holiday {i}" for i in range(9)))
    found, note, doubt = ground_truth(demo, folders)
    assert found == tuple(range(10))
    assert "sorted order" in note
    assert str(doubt).startswith("holiday 0 is no name of demo's: ")
    assert ground_truth(demo, folders, in_order=False)[0] is None
    assert ground_truth(demo, CLASSES) == (tuple(range(10)), "folders are names of classes", None)


@pytest.mark.parametrize(("folders", "expected"), [(("0", "207"), (0, 207)), (("0022", "0999"), (22, 999))])
def test_indices(imagenet: Model, folders: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert ground_truth(imagenet, folders) == (expected, "folders are class indices", None)


def test_names(imagenet: Model, demo: Model) -> None:
    folders = ("Tinca_tinca", "tench, Tinca tinca", "golden retriever", "PARACHUTE")
    assert ground_truth(imagenet, folders).classes == (0, 0, 207, 701)
    assert ground_truth(demo, tuple(reversed(CLASSES))).classes == tuple(reversed(range(10)))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (None, "not in class folders"),
        (("cat", "tench"), "the folder cat names no class"),
        (("tench", "crane"), "the folder crane names no class, or several"),  # the bird, and the machine
        (("0", "1000"), "the folder 1000 names no class"),
        (("n01440764", "n99999999"), "the folder n99999999 names no class"),
        (("n01440764", "tench"), "named in several ways"),
    ],
)
def test_what_cannot_be_told(imagenet: Model, folders: tuple[str, ...] | None, message: str) -> None:
    found, note, _ = ground_truth(imagenet, folders)
    assert found is None
    assert message in note


def test_without_a_head(demo: Model) -> None:
    headless = load_model(ModelRequest("demo", kwargs={"num_classes": 0}, device="cpu"))
    assert ground_truth(headless, CLASSES) == (None, "the model has no head", None)
    assert ground_truth(replace(demo, labels=None), CLASSES).classes == tuple(range(10))


def test_a_class_by_its_name(demo: Model, imagenet: Model) -> None:
    known = replace(demo, labels=("tench, Tinca tinca", "crane", "great white shark, white shark", "crane"))
    assert class_index(known, "tinca tinca") == class_index(known, "tench, Tinca tinca") == 0
    assert class_index(known, "Great_White_Shark") == 2
    assert class_index(known, "7") == 7  # the model has ten classes, named or not
    assert class_index(imagenet, "n03888257") == class_index(imagenet, "parachute") == 701
    with pytest.raises(UsageError, match=r"several classes of the name 'crane': 1, 3. Give the index"):
        class_index(known, "crane")
    with pytest.raises(UsageError, match=r"no class 'shark'.*Did you mean white shark"):
        class_index(known, "shark")
    with pytest.raises(UsageError, match=r"10 classes.*the names are not known"):
        class_index(replace(demo, labels=None), "tench")
    with pytest.raises(UsageError, match="no head"):
        class_index(load_model(ModelRequest("demo", kwargs={"num_classes": 0}, device="cpu")), "0")
