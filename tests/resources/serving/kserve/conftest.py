"""One fake cluster per test, in the mode that the test asks for."""

from collections.abc import Iterator

import pytest

from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import World


@pytest.fixture(params=["Knative", "Standard"])
def cluster(request: pytest.FixtureRequest) -> Iterator[FakeKubernetes]:
    """A fake cluster whose default deployment mode is each of the two in turn."""
    with serving(World(default_mode=request.param)) as fake:
        yield fake


@pytest.fixture
def knative() -> Iterator[FakeKubernetes]:
    """A fake cluster in Knative mode."""
    with serving() as fake:
        yield fake


@pytest.fixture
def standard() -> Iterator[FakeKubernetes]:
    """A fake cluster in Standard mode."""
    with serving(World(default_mode="Standard")) as fake:
        yield fake
