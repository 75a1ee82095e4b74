"""What the tests of the commands share: models to hold them against, and a watch on what is loaded.

Nothing slow is imported up here: this file is read before `pytest_configure` has settled the environment.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.reference import Reference


@pytest.fixture(scope="session")
def tiny(tiny_vit: tuple[str, ...]) -> "Reference":
    from tests.cli.reference import random_vit

    return random_vit(tiny_vit)


@pytest.fixture(scope="session")
def demo() -> "Reference":
    from tests.cli.reference import embedded

    return embedded("demo")


@pytest.fixture(scope="session")
def demo_cnn() -> "Reference":
    from tests.cli.reference import embedded

    return embedded("demo-cnn")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test whose watermark reads weights."""
    from nullspace_cli.engine.nullspace import lazy_model as network

    monkeypatch.setattr(network, "load_model", lambda request: pytest.fail(f"{request.name} was loaded"))
