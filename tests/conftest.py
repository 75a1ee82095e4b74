"""What all tests share: no network, no device that they do not ask for, the command line, a photo, a logo, models."""

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest
from PIL import Image
from typer.testing import CliRunner

from nullspace_cli.demo.drawing import draw
from nullspace_cli.demo.logo import draw_logo
from tests.shapes import check_shapes

CACHE = tempfile.TemporaryDirectory()
"""In place of the user's caches: weights that happen to be in that of the hub are not there for the tests."""


def settle_environment() -> None:
    """Settle it before anything imports torch or the hub's client, which read it once: the conftest files below do."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = os.environ["XDG_CACHE_HOME"] = CACHE.name
    os.environ["COLUMNS"] = "200"
    os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # no colours, not even where CI asks for them
    # The tests' matrices are small: a second thread gains nothing, and waits for its turn where cores are few or busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("VITNULL_MODEL", "VITNULL_CACHE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)
    os.environ["VITNULL_DEVICE"] = "cpu"  # what a test says nothing of is not the machine's to decide


settle_environment()
check_shapes()

if TYPE_CHECKING:
    import torch

    from tests.simulated_card import Traffic

DEVICES = ("cpu", "simulated", "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=(*DEVICES, "all"),
        default="cpu",
        help="where tests with a `device` run: on the CPU (default), the simulated card, a real one, or all that there "
        "are; tests marked gpu run on the simulated card unless 'cuda' or 'all' asks for a real one and there is one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(CACHE.cleanup)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has a `device` on those that --device names."""
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("device")
        there = [name for name in DEVICES if name != "cuda" or _has_card()]
        names = there if chosen == "all" else [chosen]
        if not set(names) <= set(there):
            raise pytest.UsageError("--device cuda: there is no CUDA device here. Use --device simulated.")
        metafunc.parametrize("device", names, indirect=True)


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


@contextmanager
def _device(name: str) -> "Iterator[torch.device]":
    import torch

    if name != "simulated":
        yield torch.device(name)
        return
    from tests.simulated_card import simulated_card

    with simulated_card():
        yield torch.device("cuda")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> "Iterator[torch.device]":
    """The device that a test runs on: the CPU, or what --device asks for."""
    with _device(request.param) as device:
        yield device


@pytest.fixture
def traffic() -> "Iterator[Traffic]":
    """The simulated card, and what moves between it and the host."""
    from tests.simulated_card import simulated_card

    with simulated_card() as traffic:
        yield traffic


@pytest.fixture(autouse=True)
def _card_of_gpu_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give tests marked gpu a card: the simulated one, a real one that was asked for, or one that others simulate."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    import torch

    asked = request.config.getoption("device") in ("cuda", "all")
    lent = torch.cuda.is_available.__module__ != "torch.cuda"  # the tests themselves run on somebody's simulation
    with _device("cuda" if (asked or lent) and torch.cuda.is_available() else "simulated"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _best_device() -> "Iterator[Callable[[], torch.device]]":
    """Tests never depend on which device the machine has: "auto" fails them. What "auto" asks where it may."""
    from nullspace_cli.engine.models import devices

    def refuse() -> NoReturn:
        pytest.fail('device "auto": take the `device` fixture, say device="cpu", or ask for `any_device`')

    with pytest.MonkeyPatch.context() as patch:
        asked = devices.best_device
        patch.setattr(devices, "best_device", refuse)
        yield asked


@pytest.fixture
def any_device(_best_device: "Callable[[], torch.device]", monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test, one about "auto" itself, have the best device that there is."""
    from nullspace_cli.engine.models import devices

    monkeypatch.setattr(devices, "best_device", _best_device)


class NetworkForbiddenError(Exception):
    """A test reached for the network. Not an OSError: code that copes with a lost connection must not hide it."""


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Let sockets connect to this machine alone."""

    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def require_local(host: object) -> None:
        if host not in ("localhost", "127.0.0.1", "::1", None):
            raise NetworkForbiddenError(f"a test reached for {host}")

    def guarded(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
        def connect_locally(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                require_local(address[0])
            return connect(self, address)

        return connect_locally

    def resolve_locally(host: Any, *arguments: Any, **options: Any) -> Any:
        require_local(host)
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", resolve_locally)
        yield


@functools.cache
def _schema(name: str) -> Any:
    """A schema of docs/, by another implementation than the one that checks what is printed."""
    from jsonschema import Draft202012Validator

    schema = json.loads((Path(__file__).parent.parent / f"docs/schemas/{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line leaves behind, apart from files."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout as the one JSON document that it has to be, held against the schema in docs/."""

        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is not JSON")

        document: dict[str, Any] = json.loads(self.stdout, parse_constant=refuse)
        _schema(document["schema"].split("/")[1]).validate(document)
        return document

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """stdout as JSON records, each of which one of the named schemas describes."""
        records = [json.loads(line) for line in self.stdout.splitlines()]
        for record in records:
            assert any(_schema(f"{name}.line").is_valid(record) for name in names), record
        return records

    @property
    def message(self) -> str:
        """stderr as one line, without the frame that usage errors are drawn in."""
        return " ".join(self.stderr.translate(dict.fromkeys(map(ord, "│─╭╮╰╯"), " ")).split())


def contents(folder: Path | str = ".") -> list[str]:
    """The sorted names of all that is in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


class Vitnull(Protocol):
    """Run `vitnull` in an empty folder and see that it ends with the expected exit code."""

    def __call__(self, *arguments: str | Path, expect: int = 0, env: Mapping[str, str] | None = None) -> Outcome: ...


def _expected(outcome: Outcome, expect: int) -> Outcome:
    assert outcome.exit_code == expect, f"exit code {outcome.exit_code}\n{outcome.stdout}\n{outcome.stderr}"
    return outcome


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The command line in this process, however it ends; an exception that would be a bug's traceback gets through."""
    from nullspace_cli.commands.app import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env, catch_exceptions=False)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def vitnull(run: Callable[..., Outcome]) -> Vitnull:
    """The command line in this process, held to an exit code: 0 unless another one is expected."""

    def vitnull(*arguments: str | Path, expect: int = 0, env: Mapping[str, str] | None = None) -> Outcome:
        return _expected(run(*arguments, env=env), expect)

    return vitnull


@pytest.fixture
def process(tmp_path: Path) -> Vitnull:
    """As `vitnull`, in a process of its own. It spends seconds on imports: for what cannot be seen from within."""

    def run(*arguments: str | Path, expect: int = 0, env: Mapping[str, str] | None = None) -> Outcome:
        command = [sys.executable, "-m", "nullspace_cli", *map(str, arguments)]
        result = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **(env or {})}, capture_output=True, encoding="utf-8", check=False
        )
        return _expected(Outcome(result.returncode, result.stdout, result.stderr), expect)

    return run


@pytest.fixture
def torchrun(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Two processes that share one run of the command line, as torchrun starts them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

    def torchrun(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        ranks = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port))
        command = [sys.executable, *ranks, "-m", "nullspace_cli", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, **options)

    return torchrun


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that loads a model: what it looks at is to be refused before."""
    from nullspace_cli.engine.models import loading
    from nullspace_cli.engine.nullspace import lazy_model
    from nullspace_cli.engine.workflows import common_inputs, demo

    for module in (common_inputs, demo, loading, lazy_model):  # the others import it when they need it
        monkeypatch.setattr(module, "load_model", lambda request: pytest.fail(f"{request.name} was loaded"))


@pytest.fixture(scope="session")
def tiny_vit() -> tuple[str, ...]:
    """A model's name and the options that make it small; its three std differ, and it crops what it has resized."""
    return (
        "deit_tiny_patch16_224",
        "--no-pretrained",
        *("--model-kwargs", "depth=1"),
        *("--model-kwargs", "img_size=64"),
    )


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawing of the demo's, not square and of no model's size."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels, _ = draw("val", 3, size=260)
    Image.fromarray(pixels[:230]).save(path)
    return path


@pytest.fixture(scope="session")
def logo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logo") / "logo.png"
    Image.fromarray(draw_logo()).save(path)
    return path


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real weights and photos, for tests marked `real`."""
    folder = os.environ.get("VITNULL_REAL")
    if not folder:
        pytest.skip("VITNULL_REAL names no folder of real weights and photos")
    return Path(folder)
