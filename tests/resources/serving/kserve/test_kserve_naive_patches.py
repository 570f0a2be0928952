"""Each trap of KServe's Knative mode: the obvious patch leaks traffic, and the plans' patches do not.

No HTTP here: patches are applied to the state machine, and its history says where requests would have gone.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from resources.serving.kserve import knative
from resources.serving.kserve.driver import Patch, Reached, Refuse, Wanted
from tests.fake_kubernetes import knative_objects
from tests.fake_kubernetes.knative import KnativeState, reconcile
from tests.fake_kubernetes.merge import merged
from tests.fake_kubernetes.world import Behaviour, Failure, World

V0, V1, V2, V3 = "s3://m/0", "s3://m/1", "s3://m/2", "s3://m/3"


@dataclass
class Lab:
    """One InferenceService and its controllers, without an API server."""

    world: World = field(default_factory=World)
    state: KnativeState = field(default_factory=KnativeState)
    isvc: dict[str, Any] = field(
        default_factory=lambda: {
            "metadata": {"name": "m", "namespace": "default"},
            "spec": {"predictor": {"model": {"storageUri": V1}}},
        }
    )

    def tick(self, times: int = 1) -> "Lab":
        for _ in range(times):
            self.world.now += 1
            self.isvc["status"] = reconcile(copy.deepcopy(self.isvc), self.state, self.world)
        return self

    def patch(self, predictor: dict[str, Any], *, ticks: int = 4) -> "Lab":
        self.isvc = merged(self.isvc, {"spec": {"predictor": predictor}})
        return self.tick(ticks)

    def view(self) -> knative.KnativeView:
        revisions = knative_objects.revisions(self.isvc, self.state, self.world)
        return knative.read(
            "m", self.isvc, revisions, knative_objects.pods(self.isvc, self.state, self.world)
        )

    def run(self, plan: Any, *, limit: int = 60) -> Any:
        """Carry a plan out, one tick after each step; returns the last step."""
        step = plan(self.view())
        for _ in range(limit):
            if isinstance(step, Reached | Refuse):
                return step
            if isinstance(step, Patch):
                self.isvc = merged(self.isvc, {"spec": step.spec})
            self.tick()
            step = plan(self.view())
        return step

    def deploy(self, version: str, percent: int) -> Any:
        wanted = Wanted({}, version, f"d{version}", f"salt{version}", f"s3://m/{version}", percent)
        return self.run(lambda view: knative.deploy(view, wanted))

    def shares(self) -> dict[str, int]:
        return {share.model: share.percent for share in self.world.history[-1].shares}

    def component(self, key: str) -> str:
        return self.isvc["status"]["components"]["predictor"][key].rpartition("-")[2]


def model(uri: str, **more: Any) -> dict[str, Any]:
    return {"model": {"storageUri": uri}, **more}


def canary(percent: int = 10) -> Lab:
    """v1 stable, v2 the canary, by hand."""
    lab = Lab().tick(3)
    return lab.patch(model(V2, canaryTrafficPercent=percent))


def rolling() -> Lab:
    """v1 stable, v2 the canary at 10 %, by the plans."""
    lab = Lab().tick(3)
    assert isinstance(lab.deploy("2", 10), Reached)
    assert lab.shares() == {V2: 10, V1: 90}
    return lab


def roll_back(lab: Lab, version: str) -> Any:
    return lab.run(lambda view: knative.roll_back(view, version))


def test_the_recommended_sequence_behaves_as_documented():
    lab = Lab().tick(3)
    assert lab.component("latestRolledoutRevision") == "00001"
    lab.patch(model(V2, canaryTrafficPercent=10))
    assert lab.shares() == {V2: 10, V1: 90}
    lab.patch({"canaryTrafficPercent": 50})
    assert lab.shares() == {V2: 50, V1: 50}
    lab.patch({"canaryTrafficPercent": None})
    assert lab.shares() == {V2: 100}
    assert lab.component("previousRolledoutRevision") == "00001"


def test_naive_rollback_in_one_patch_leaks_everything():
    lab = canary()
    lab.world.models[V1] = Behaviour(ready_after=5)
    lab.patch(model(V1, canaryTrafficPercent=None), ticks=3)
    assert lab.shares() == {V2: 100}


def test_our_rollback_never_sends_anything_to_the_canary_again():
    lab = rolling()
    lab.world.models[V1] = Behaviour(ready_after=5)
    since = lab.world.now + 1
    assert isinstance(roll_back(lab, "2"), Reached)
    lab.tick(5)
    assert lab.world.leaked(V2, since=since) == []
    assert lab.shares() == {V1: 100}
    assert "canaryTrafficPercent" not in lab.isvc["spec"]["predictor"]


def test_naive_next_canary_after_a_half_rollback_leaks():
    lab = canary().patch({"canaryTrafficPercent": 0})
    lab.world.models[V3] = Behaviour(ready_after=5)
    lab.patch(model(V3, canaryTrafficPercent=10), ticks=3)
    assert lab.shares()[V2] == 10


def test_our_next_canary_is_refused_until_the_rollback_is_complete():
    lab = rolling()
    lab.run(lambda view: knative.set_percent(view, "2", 0))
    since = lab.world.now
    refused = lab.deploy("3", 10)
    assert isinstance(refused, Refuse) and "roll it back first" in refused.message
    roll_back(lab, "2")
    lab.world.models[V3] = Behaviour(ready_after=5)
    assert isinstance(lab.deploy("3", 10), Reached)
    assert lab.world.leaked(V2, since=since) == []
    assert lab.shares() == {V3: 10, V1: 90}


def test_our_next_canary_completes_a_rollback_that_died_before_its_last_patch():
    lab = rolling()
    lab.world.models[V1] = Behaviour(ready_after=4)
    since = lab.world.now + 1
    for _ in range(4):  # dies after the spec was restored
        step = knative.roll_back(lab.view(), "2")
        if isinstance(step, Patch):
            lab.isvc = merged(lab.isvc, {"spec": step.spec})
        lab.tick()
    assert lab.view().restoring
    assert isinstance(lab.deploy("3", 10), Reached)
    assert lab.world.leaked(V2, since=since) == []
    assert lab.shares() == {V3: 10, V1: 90}


def test_naive_percent_without_a_new_template_sends_most_traffic_to_the_older_revision():
    lab = canary().patch({"canaryTrafficPercent": None}).patch({"canaryTrafficPercent": 10})
    assert lab.shares() == {V2: 10, V1: 90}


def test_our_percent_is_refused_for_a_promoted_version():
    lab = rolling()
    lab.run(lambda view: knative.promote(view, "2"))
    step = lab.run(lambda view: knative.set_percent(view, "2", 10))
    assert isinstance(step, Refuse) and "promoted" in step.message
    assert lab.shares() == {V2: 100}


def test_naive_zero_twice_after_promotions_forgets_how_to_go_further_back():
    lab = canary().patch({"canaryTrafficPercent": None})
    lab.patch(model(V3, canaryTrafficPercent=10)).patch({"canaryTrafficPercent": None})
    lab.patch({"canaryTrafficPercent": 0})
    assert lab.shares() == {V2: 100}, "memory is one level deep"


def test_our_rollback_after_promotion_moves_traffic_first_and_cleans_the_spec():
    lab = rolling()
    assert isinstance(lab.run(lambda view: knative.promote(view, "2")), Reached)
    lab.world.models[V1] = Behaviour(ready_after=8)
    promoted_until = lab.world.now
    assert isinstance(roll_back(lab, "2"), Reached)
    leaks = lab.world.leaked(V2, since=promoted_until)
    assert [moment.at for moment in leaks] in ([], [promoted_until + 1]), (
        "KServe needs one reconcile to fall back"
    )
    assert lab.shares() == {V1: 100}
    assert "canaryTrafficPercent" not in lab.isvc["spec"]["predictor"]


def test_naive_rollback_after_a_promotion_and_a_template_edit_stays_on_the_bad_version():
    lab = canary().patch({"canaryTrafficPercent": None})
    lab.patch({"timeout": 30})  # a GitOps change: a new revision of the same bad version
    lab.patch({"canaryTrafficPercent": 0})
    assert lab.shares() == {V2: 100}


def test_our_rollback_after_a_promotion_and_a_template_edit_reaches_the_version_before():
    lab = rolling()
    lab.run(lambda view: knative.promote(view, "2"))
    lab.patch({"timeout": 30})
    assert isinstance(roll_back(lab, "2"), Reached)
    assert lab.shares() == {V1: 100}


def test_naive_zero_for_a_canary_that_never_became_ready_leaves_the_service_not_ready():
    lab = Lab().tick(3)
    lab.world.models[V2] = Behaviour(failure=Failure("load", "no such column"))
    lab.patch(model(V2, canaryTrafficPercent=10)).patch({"canaryTrafficPercent": 0})
    assert {c["type"]: c["status"] for c in lab.isvc["status"]["conditions"]}["Ready"] == "False"


def test_our_rollback_of_a_canary_that_never_became_ready_restores_the_service():
    lab = Lab().tick(3)
    lab.world.models[V2] = Behaviour(failure=Failure("load", "no such column"))
    lab.deploy("2", 10)
    assert isinstance(roll_back(lab, "2"), Reached)
    assert {c["type"]: c["status"] for c in lab.isvc["status"]["conditions"]}["Ready"] == "True"
    assert lab.world.leaked(V2, since=0) == []


def test_naive_single_patch_gives_a_late_canary_its_share_with_nobody_watching():
    lab = Lab().tick(3)
    lab.world.models[V2] = Behaviour(ready_after=50)
    lab.patch(model(V2, canaryTrafficPercent=10), ticks=10)  # the deployer gave up here
    lab.tick(50)
    assert lab.shares()[V2] == 10


def test_our_canary_that_is_late_gets_nothing_until_somebody_says_so():
    lab = Lab().tick(3)
    lab.world.models[V2] = Behaviour(ready_after=50)
    wanted = Wanted({}, "2", "d2", "salt2", V2, 10)
    lab.run(lambda view: knative.deploy(view, wanted), limit=10)
    lab.tick(60)
    assert lab.shares() == {V1: 100}


def promoted_once(world: World) -> Lab:
    """v0 then v1 promoted, so that KServe remembers an older revision."""
    lab = Lab(world=world)
    lab.isvc["spec"]["predictor"]["model"]["storageUri"] = V0
    lab.tick(3)
    lab.deploy("1", 10)
    lab.run(lambda view: knative.promote(view, "1"))
    return lab


def test_naive_deploy_does_not_notice_that_the_stable_revision_jumped():
    lab = promoted_once(World())
    lab.world.created_lag = 3
    lab.patch(model(V2, canaryTrafficPercent=10), ticks=8)
    assert lab.shares() == {V2: 10, V0: 90}


def test_our_deploy_stops_when_the_stable_revision_jumped_and_a_rollback_heals_it():
    lab = promoted_once(World())
    lab.world.created_lag = 3
    step = lab.deploy("2", 10)
    assert isinstance(step, Refuse) and "changed" in step.message
    assert lab.world.leaked(V2, since=0) == []
    assert isinstance(roll_back(lab, "2"), Reached)
    assert lab.shares() == {V1: 100}
    assert lab.world.leaked(V2, since=0) == []


def test_naive_readiness_reads_ready_and_is_wrong_both_ways():
    lab = Lab().tick(3)
    lab.world.models[V2] = Behaviour(ready_after=9)
    lab.patch(model(V2, canaryTrafficPercent=10), ticks=2)
    ready = {c["type"]: c["status"] for c in lab.isvc["status"]["conditions"]}["Ready"]
    assert ready == "Unknown"
    status = knative.status(lab.view())
    assert status.stable is not None and status.stable.ready and status.stable.percent == 100


def test_an_annotation_on_the_metadata_starts_a_revision_and_ours_do_not():
    lab = Lab().tick(3)
    naive = merged(lab.isvc, {"metadata": {"annotations": {"rampgate.io/promoted": "2"}}})
    lab.isvc = naive
    lab.tick(3)
    assert len(lab.state.revisions) == 2
    ours = rolling()
    before = len(ours.state.revisions)
    ours.run(lambda view: knative.promote(view, "2"))
    assert len(ours.state.revisions) == before


def test_zero_is_patched_while_the_model_is_not_ready():
    lab = rolling()
    lab.world.models[V2] = Behaviour(ready_after=99)
    lab.patch({"timeout": 30}, ticks=2)  # a new revision of the canary that is not ready
    assert isinstance(lab.run(lambda view: knative.set_percent(view, "2", 0), limit=4), Reached)
    assert lab.shares() == {V1: 100}


def test_our_first_patch_holds_the_weight_at_zero_whoever_dies_after_it():
    lab = Lab().tick(3)
    step = knative.deploy(lab.view(), Wanted({}, "2", "d2", "salt2", V2, 10))
    assert isinstance(step, Patch) and step.spec["predictor"]["canaryTrafficPercent"] == 0
    lab.isvc = merged(lab.isvc, {"spec": step.spec})
    lab.tick(20)
    assert lab.shares() == {V1: 100}
