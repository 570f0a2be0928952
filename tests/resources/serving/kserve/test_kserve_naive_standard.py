"""The traps of KServe's Standard mode, on the state machine: the obvious patch, and the plans'."""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

from resources.serving.kserve import standard
from resources.serving.kserve.driver import Patch, Reached, Refuse, Wanted
from tests.fake_kubernetes import standard as machine
from tests.fake_kubernetes.merge import merged
from tests.fake_kubernetes.status import ApiError
from tests.fake_kubernetes.webhook import validate
from tests.fake_kubernetes.world import Behaviour, World, storage_uri

V1, V2, V3 = "s3://m/1", "s3://m/2", "s3://m/3"


@dataclass
class Lab:
    """One InferenceService in Standard mode and its controller, without an API server."""

    world: World = field(default_factory=World)
    state: machine.StandardState = field(default_factory=machine.StandardState)
    isvc: dict[str, Any] = field(
        default_factory=lambda: {
            "metadata": {"name": "m", "namespace": "default"},
            "spec": {"predictor": {"minReplicas": 4, "model": {"storageUri": V1}}},
            "status": {"deploymentMode": "Standard"},
        }
    )

    def tick(self, times: int = 1) -> "Lab":
        for _ in range(times):
            self.world.now += 1
            self.isvc["status"] = machine.reconcile(copy.deepcopy(self.isvc), self.state, self.world)
        return self

    def patch(self, spec: dict[str, Any], *, ticks: int = 4) -> "Lab":
        self.isvc = merged(self.isvc, {"spec": spec})
        validate(self.isvc, "Standard")
        return self.tick(ticks)

    def view(self) -> standard.StandardView:
        return standard.read(
            "m",
            self.isvc,
            machine.deployments(self.isvc, self.state, self.world),
            machine.pods(self.isvc, self.state, self.world),
            machine.http_routes(self.isvc, self.state),
        )

    def run(self, plan: Any, *, limit: int = 60) -> Any:
        step = plan(self.view())
        for _ in range(limit):
            if isinstance(step, Reached | Refuse):
                return step
            if isinstance(step, Patch):
                self.patch(dict(step.spec), ticks=0)
            self.tick()
            step = plan(self.view())
        return step

    def deploy(self, version: str, percent: int) -> Any:
        wanted = Wanted({}, version, f"d{version}", f"salt{version}", f"s3://m/{version}", percent)
        return self.run(lambda view: standard.deploy(view, wanted))

    def shares(self) -> dict[str, int]:
        return {share.model: share.percent for share in self.world.history[-1].shares}

    def started(self, uri: str) -> list[int]:
        return [
            each.ready_at for each in self.state.deployments.values() if storage_uri(each.predictor) == uri
        ]


def entry(name: str, uri: str, percent: int, **more: Any) -> dict[str, Any]:
    return {"trafficPercent": percent, "predictor": {"name": name, "model": {"storageUri": uri}, **more}}


def fresh(**knobs: Any) -> Lab:
    lab = Lab(world=World(**knobs)).tick(3)
    lab.world.history.clear()
    return lab


def promoted() -> Lab:
    lab = fresh()
    assert isinstance(lab.deploy("2", 10), Reached)
    assert isinstance(lab.run(lambda view: standard.promote(view, "2")), Reached)
    return lab


def test_naive_canary_without_the_gateway_api_runs_and_gets_nothing():
    lab = fresh(gateway_api=False).patch({"canary": [entry("v2", V2, 10)]})
    assert len(lab.state.deployments) == 2
    assert lab.shares() == {V1: 100}


def test_naive_canary_with_weight_before_it_is_ready_drops_requests():
    lab = fresh(readiness_gate=False)
    lab.world.models[V2] = Behaviour(ready_after=5)
    lab.patch({"canary": [entry("v2", V2, 10)]})
    assert lab.world.outages()


@pytest.mark.parametrize("gate", [True, False])
def test_our_canary_gets_weight_only_when_it_is_ready(gate: bool):
    lab = fresh(readiness_gate=gate)
    lab.world.models[V2] = Behaviour(ready_after=5)
    assert isinstance(lab.deploy("2", 10), Reached)
    assert lab.shares() == {V2: 10, V1: 90}
    assert not lab.world.outages()


def test_naive_canary_at_zero_never_gets_a_replica():
    lab = fresh().patch({"canary": [entry("v2", V2, 0)]}, ticks=20)
    assert lab.isvc["status"]["canaryStatuses"][0]["ready"] is False


def test_our_canary_at_zero_is_ready_and_reachable():
    lab = fresh()
    assert isinstance(lab.deploy("2", 0), Reached)
    status = standard.status(lab.view())
    assert status.canary is not None and status.canary.ready and status.canary.percent == 0


def test_replicas_grow_before_weight():
    lab = fresh()
    lab.deploy("2", 10)
    lab.run(lambda view: standard.set_percent(view, "2", 75))
    assert lab.view().canary_backend in lab.view().available
    assert lab.view().available[lab.view().canary_backend] == 3


def test_naive_promotion_by_storage_uri_restarts_the_stable_pods():
    lab = fresh().patch({"canary": [entry("v2", V2, 50)]})
    running = lab.started(V2)
    lab.patch({"predictor": {"model": {"storageUri": V2}}, "canary": None})
    assert lab.started(V2) != running


def test_our_promotion_keeps_the_canary_pods_running():
    lab = fresh()
    lab.deploy("2", 50)
    running = lab.started(V2)
    assert isinstance(lab.run(lambda view: standard.promote(view, "2")), Reached)
    assert lab.started(V2) == running
    assert lab.shares() == {V2: 100}
    assert lab.started(V1) == []
    assert not lab.world.outages()


def test_naive_rollback_after_promotion_deletes_what_serves():
    lab = promoted()
    lab.world.models[V1] = Behaviour(ready_after=5)
    lab.patch({"predictor": {"name": "again", "model": {"storageUri": V1}}})
    assert lab.world.outages()


def test_our_rollback_after_promotion_starts_the_old_version_first():
    lab = promoted()
    lab.world.models[V1] = Behaviour(ready_after=5)
    assert isinstance(lab.run(lambda view: standard.roll_back(view, "2")), Reached)
    assert lab.shares() == {V1: 100}
    assert not lab.world.outages()
    assert lab.started(V2) == []
    assert "canary" not in lab.isvc["spec"]


def test_a_rollback_during_the_canary_moves_weight_before_pods_go():
    lab = fresh()
    lab.deploy("2", 10)
    percents: list[int] = []

    def plan(view: standard.StandardView) -> Any:
        step = standard.roll_back(view, "2")
        if isinstance(step, Patch) and step.spec["canary"] is None:
            percents.append(view.weight(view.canary_backend))
        return step

    assert isinstance(lab.run(plan), Reached)
    assert percents == [0]
    assert lab.shares() == {V1: 100}


def test_the_next_canary_after_a_promotion_has_a_new_name():
    lab = promoted()
    assert isinstance(lab.deploy("3", 10), Reached)
    assert lab.shares() == {V3: 10, V2: 90}


def test_naive_next_canary_with_the_promoted_name_is_rejected():
    lab = fresh().patch({"predictor": {"name": "v2", "model": {"storageUri": V2}}})
    with pytest.raises(ApiError, match="conflicts"):
        lab.patch({"canary": [entry("v2", V3, 10)]})


def test_a_version_rolled_back_twice_has_no_trace_of_the_first_time():
    lab = fresh()
    for _ in range(2):
        assert isinstance(lab.deploy("2", 10), Reached)
        assert isinstance(lab.run(lambda view: standard.promote(view, "2")), Reached)
        assert isinstance(lab.run(lambda view: standard.roll_back(view, "2")), Reached)
        assert lab.shares() == {V1: 100}
    assert isinstance(lab.run(lambda view: standard.roll_back(view, "2")), Reached)


def test_canaries_of_somebody_else_are_left_alone():
    lab = fresh().patch({"canary": [entry("theirs", V3, 5)]})
    step = lab.deploy("2", 10)
    assert isinstance(step, Refuse) and "theirs" in step.message
    assert lab.shares() == {V3: 5, V1: 95}


def test_autoscaling_of_the_stable_predictor_passes_through():
    lab = fresh().patch({"predictor": {"maxReplicas": 9, "scaleMetric": "cpu", "scaleTarget": 70}})
    lab.deploy("2", 10)
    lab.run(lambda view: standard.promote(view, "2"))
    kept = {
        k: lab.isvc["spec"]["predictor"][k]
        for k in ("maxReplicas", "scaleMetric", "scaleTarget", "minReplicas")
    }
    assert kept == {"maxReplicas": 9, "scaleMetric": "cpu", "scaleTarget": 70, "minReplicas": 4}
