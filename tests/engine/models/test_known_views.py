"""What is remembered of models is what timm says of them; what cannot be remembered is done without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from nullspace_cli.engine.models import known_views, user_cache
from nullspace_cli.engine.models.loading import load_view
from nullspace_cli.engine.models.model_request import ModelRequest

REQUESTS = [
    ModelRequest("resnet10t"),
    ModelRequest("vit_tiny_patch16_224", kwargs={"depth": 1, "img_size": [64, 96], "num_classes": 0}),
]


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vitnull" / "views.json"


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has not imported it yet."""
    monkeypatch.delitem(sys.modules, "timm")
    return monkeypatch


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_view_is_recalled_as_it_was_found(request_: ModelRequest, without_timm: pytest.MonkeyPatch) -> None:
    assert known_views.recall(request_) is None
    without_timm.setitem(sys.modules, "timm", timm)
    found = load_view(request_)
    assert known_views.recall(request_) is None, "timm is there and knows best"
    without_timm.delitem(sys.modules, "timm")
    assert known_views.recall(request_) == found
    without_timm.setattr(user_cache, "version", lambda _: "999.0")
    assert known_views.recall(request_) is None


def test_others_names_and_folders_are_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models import _registry

    def resnet10t(**kwargs: object) -> object:
        return timm.create_model("resnet14t", **kwargs)

    monkeypatch.setitem(_registry._model_entrypoints, "resnet10t", resnet10t)
    load_view(REQUESTS[0])
    assert not file.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"views": {"x": 1}}', '{"views": {"x": {"name": "y"}}}'])
def test_a_damaged_file_is_replaced(file: Path, text: str, without_timm: pytest.MonkeyPatch) -> None:
    file.parent.mkdir()
    file.write_text(text)
    assert known_views.recall(REQUESTS[0]) is None
    without_timm.setitem(sys.modules, "timm", timm)
    load_view(REQUESTS[0])
    assert len(json.loads(file.read_text())["views"]) == 1


def test_a_cache_that_cannot_be_written_is_done_without(file: Path) -> None:
    file.parent.write_text("no folder")
    assert load_view(REQUESTS[0]).name == "resnet10t.c3_in1k"


def test_the_second_run_does_not_import_timm(tmp_path: Path) -> None:
    program = (
        "import sys; from nullspace_cli.engine.models.loading import load_view; "
        "from nullspace_cli.engine.models.model_request import ModelRequest; "
        "print(load_view(ModelRequest('resnet10t')), 'timm' in sys.modules)"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first[:-1] == second[:-1]
    assert (first[-1], second[-1]) == ("True", "False")
