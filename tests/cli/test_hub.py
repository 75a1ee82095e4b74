"""Models from a hub: a mirror on this machine that answers as the real one does, or refuses, lies and falls silent."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save

from nullspace_cli.engine.files.hashes import hash_state
from tests.conftest import Outcome, Vitnull

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ARGUMENTS = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 5}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A repository with the smallest ViT."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = timm.create_model("vit_tiny_patch16_224", **ARGUMENTS)
    config = {"architecture": "vit_tiny_patch16_224", "model_args": ARGUMENTS, "pretrained_cfg": {"num_classes": 5}}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(module.state_dict())}


class Mirror(ThreadingHTTPServer):
    """A hub: `repositories` by name, with their files, or what it answers in their place."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.over, self.silent = files, threading.Event(), False
        self.refusals: dict[str, tuple[int, str]] = {
            "org/private": (401, ""),
            "org/forbidden": (403, ""),
            "org/gated": (403, "GatedRepo"),
            "org/missing": (404, "RepoNotFound"),
            "org/busy": (503, ""),
        }


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, *, body: bool) -> None:
        if self.server.silent:
            self.server.over.wait()
            return
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        data = self.server.files.get(name)
        status, code = self.server.refusals.get(repository, (200 if data is not None else 404, "EntryNotFound"))
        if revision not in ("main", COMMIT):
            status, code = 404, "RevisionNotFound"
        if repository == "org/stuck" and body and name != "config.json":
            self.server.over.wait()
            return
        self.send_response(status)
        if status != 200 or data is None:
            self.send_header("X-Error-Code", code)
            if code == "EntryNotFound":
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:40]}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if repository == "org/cut" and name != "config.json" else data)


@pytest.fixture
def mirror(files: dict[str, bytes]) -> Iterator[Mirror]:
    with Mirror(files) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


Fetch = Callable[..., Outcome]


@pytest.fixture
def fetch(mirror: Mirror, process: Vitnull, tmp_path: Path) -> Fetch:
    """The command line in a process of its own, whose hub is the mirror."""
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{mirror.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), ""),
    }

    def fetch(name: str, *options: str, expect: int = 1) -> Outcome:
        return process("basis", name, "--no-preview", "--json", *options, expect=expect, env=environment)

    return fetch


def test_a_mirror_and_its_cache(fetch: Fetch, files: dict[str, bytes], tmp_path: Path) -> None:
    from safetensors.torch import load

    document = fetch("hf-hub:org/fine", expect=0).document
    assert document["weights_sha256"] == hash_state(load(files["model.safetensors"]))
    assert fetch("hf-hub:org/fine", "--offline", "--force", expect=0).document["seconds"] > 0
    repository = tmp_path / "home/hub/models--org--fine"
    link = repository / "snapshots" / COMMIT / "model.safetensors"
    blob = link.resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    message = fetch("hf-hub:org/fine", "--offline", "--force").message
    assert "The cached weights of hf-hub:org/fine are damaged" in message
    assert str(repository) in message
    blob.unlink()
    message = fetch("hf-hub:org/fine", "--offline", "--force").message
    assert "the cache is broken" in message
    assert str(link) in message


def test_a_model_of_transformers_in_several_files(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    mirror.files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert len(mirror.files) > 3
    here = fetch(f"local-dir:{tmp_path / 'model'}", expect=0).document
    document = fetch("hf-hub:org/fine", "--force", expect=0).document
    assert document["weights_sha256"] == here["weights_sha256"]
    assert (
        fetch("hf-hub:org/fine", "--offline", "--force", expect=0).document["weights_sha256"] == here["weights_sha256"]
    )
    message = fetch("hf-hub:org/cut").message
    assert "The weights of hf-hub:org/cut could not be fetched" in message
    assert "cut off" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(
            "hf-hub:org/private",
            ("refuses access (HTTP 401)", "Log in", "HF_TOKEN", "access", "--checkpoint"),
            marks=pytest.mark.slow,
        ),
        pytest.param("hf-hub:org/forbidden", ("refuses access (HTTP 403)", "Log in"), marks=pytest.mark.slow),
        ("hf-hub:org/gated", ("is gated", "Log in", "ask its owner for access")),
        pytest.param(
            "hf-hub:org/missing",
            ("there is no org/missing at http://127.0.0.1", "private", "Check the name"),
            marks=pytest.mark.slow,
        ),
        pytest.param("hf-hub:org/fine@v7", ("no such revision",), marks=pytest.mark.slow),
        pytest.param("hf-hub:org/busy", ("answers HTTP 503", "Try again later"), marks=pytest.mark.slow),
        pytest.param("hf-hub:org/stuck", ("does not answer",), marks=pytest.mark.slow),
        pytest.param("hf-hub:org/cut", ("cut off", "Try again"), marks=pytest.mark.slow),
    ],
)
def test_what_a_hub_may_say_instead(fetch: Fetch, name: str, words: tuple[str, ...]) -> None:
    message = fetch(name).message
    assert f"The weights of {name} could not be fetched" in message
    for word in words:
        assert word in message
    assert "Go online" not in message
    assert "Traceback" not in message


def test_a_hub_that_never_answers(fetch: Fetch, mirror: Mirror) -> None:
    mirror.silent = True
    message = fetch("hf-hub:org/fine").message
    assert "could not be fetched: org/fine at http://127.0.0.1" in message
    assert "does not answer. Try again later" in message
