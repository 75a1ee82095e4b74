"""Readers by the names of models."""

import pytest

from nullspace_cli.engine.errors import ModelError, UsageError
from nullspace_cli.engine.models.loading import load_model
from nullspace_cli.engine.models.model_request import ModelRequest
from nullspace_cli.engine.models.named_readers import parse_reader


@pytest.mark.parametrize("name", ["demo", "demo-cnn", "vit_tiny_patch16_224", "mixer_s32_224"])
def test_a_models_reader_is_its_transform(name: str) -> None:
    model = load_model(ModelRequest(name, pretrained=name.startswith("demo"), device="cpu"))
    reader = parse_reader(name)
    assert (reader.name, reader.transform) == (model.name, model.transform)
    assert reader.in_two_passes


def test_a_reader_is_spelled_out() -> None:
    assert parse_reader("224/torch-bicubic/0.9").name == "224/torch-bicubic/0.9"


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("224", ModelError, "has no model '224'"),
        ("vit_tiny_patch16_244", ModelError, "Did you mean"),
        ("hf-hub:org/name/more", ModelError, "hf-hub:org/name/more"),
        ("local-dir:/nowhere/at/all", ModelError, "/nowhere/at/all"),
        ("224/bicubic", UsageError, "it has 2 parts"),
    ],
)
def test_what_names_no_reader_is_refused_with_the_form(text: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error) as refusal:
        parse_reader(text)
    assert reason in str(refusal.value)
    assert "SIZE/FILTER/CROP_PCT, as 224/bicubic/0.875, or a model's name" in str(refusal.value)
