"""Whatever is called, whenever it dies: calls converge, and a version that was rolled back gets no traffic."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.errors import ServingError
from resources.serving.kserve.backend import KServeBackend
from tests.fake_kubernetes.backends import artefact, backend
from tests.fake_kubernetes.faults import Fault, conflicts
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import Behaviour, Failure, World


class Died(BaseException):
    """The process that was rolling out is gone."""


def faulty(fake: FakeKubernetes, trouble: str) -> None:
    """Plan one kind of trouble for the next writes."""
    if trouble == "conflict":
        fake.faults.append(conflicts(2))
    elif trouble in ("lost", "refused", "error"):
        fake.faults.append(Fault(trouble))


def dying(made: KServeBackend, after: int | None) -> KServeBackend:
    """The same backend in a process that dies after some sleeps, or never."""
    if after is None:
        return made
    left = [after]
    sleep = made.sleep

    def mortal(seconds: float) -> None:
        if left[0] == 0:
            raise Died
        left[0] -= 1
        sleep(seconds)

    return replace(made, sleep=mortal)


OPERATIONS = st.tuples(
    st.sampled_from(["deploy", "percent", "promote", "roll_back"]),
    st.sampled_from(["2", "3"]),
    st.sampled_from([0, 10, 50, 100]),
    st.sampled_from(["", "", "conflict", "lost", "refused", "error"]),
    st.one_of(st.none(), st.integers(0, 6)),
)


def call(made: KServeBackend, name: str, version: str, percent: int, salt: str) -> Any:
    calls: dict[str, Callable[[], Any]] = {
        "deploy": lambda: made.deploy_canary("m", artefact(version), percent=percent, salt=salt),
        "percent": lambda: made.set_canary_percent("m", version, percent),
        "promote": lambda: made.promote("m", version),
        "roll_back": lambda: made.roll_back("m", version),
    }
    return calls[name]()


def play(fake: FakeKubernetes, operations: list[Any]) -> None:
    made = backend(fake)
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    made.promote("m", "1")
    leaving: dict[str, int] = {}
    for number, (name, version, percent, trouble, death) in enumerate(operations):
        began = fake.world.now
        faulty(fake, trouble)
        if name != "roll_back":
            leaving.pop(version, None)
        try:
            call(dying(made, death), name, version, percent, f"s{version}-{number // 3}")
            refused = False
        except Died:
            refused = False
        except ServingError as error:
            refused = "no version before" in str(error) or "that back first" in str(error)
        if name == "roll_back" and not refused:
            leaving.setdefault(version, began)
        fake.faults.clear()
        fake.run(2)
        for gone, since in leaving.items():
            assert_only_leaves(fake, gone, since=since)
    converge(fake, made)


def assert_only_leaves(fake: FakeKubernetes, version: str, *, since: int) -> None:
    """From the moment at which its rollback began, the version's share of traffic never grows."""
    uri = f"s3://m/{version}"
    moments = [moment for moment in fake.world.history if moment.at > since]
    shares = [sum(share.percent for share in moment.shares if share.model == uri) for moment in moments]
    assert shares == sorted(shares, reverse=True)


def converge(fake: FakeKubernetes, made: KServeBackend) -> None:
    """Whatever happened, rolling back what is the canary ends with one stable version in a clean spec."""
    for version in ("2", "3"):
        canary = made.status("m").canary
        if canary is not None:
            made.roll_back("m", canary.version)
        assert made.set_canary_percent("m", "9", 0).stable is not None, version
    began = fake.world.now
    fake.run(5)
    after = made.status("m")
    assert after.canary is None and after.stable is not None
    assert (after.stable.percent, after.stable.ready) == (100, True)
    assert not fake.world.outages(since=began)


def histories(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many of them, in both modes."""

    def tried(test: Callable[..., None]) -> Callable[..., None]:
        given_them = given(
            operations=st.lists(OPERATIONS, min_size=1, max_size=7),
            slow=st.integers(1, 6),
            broken=st.booleans(),
            lag=st.integers(0, 2),
        )(test)
        few = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
        return pytest.mark.parametrize("mode", ["Knative", "Standard"])(few(given_them))

    return tried


def run(mode: str, operations: list[Any], slow: int, broken: bool, lag: int) -> None:
    world = World(default_mode=mode, created_lag=lag)
    world.models["s3://m/2"] = Behaviour(ready_after=slow)
    if broken:
        world.models["s3://m/3"] = Behaviour(ready_after=slow, failure=Failure("load", "bad"))
    with serving(world) as fake:
        play(fake, operations)


@histories(20)
def test_random_histories_never_leak(
    mode: str, operations: list[Any], slow: int, broken: bool, lag: int
) -> None:
    run(mode, operations, slow, broken, lag)


@pytest.mark.faults
@histories(300)
def test_many_random_histories_never_leak(
    mode: str, operations: list[Any], slow: int, broken: bool, lag: int
) -> None:
    run(mode, operations, slow, broken, lag)
