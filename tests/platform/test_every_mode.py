"""Every mode of the manifest, once, on the whole platform: real predictors, real traffic, outcomes that come later.

Eleven small models side by side; the tests stand in the order of the waves in which their rollouts are started.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from pipelines.core.rollout.events import Action, DecisionKind, End
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.experiments.looks import past_looks, registered_in
from resources.serving.embedded.supervisor import wait_until
from tests.support.mode_stage import PATIENCE_SECONDS, Stage, stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {model}}}
spec:
  predictor:
    minReplicas: 1
    timeout: 10
    model: {{modelFormat: {{name: mlflow}}, protocolVersion: v2}}
"""

COST = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%"}

ERRORS = {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "3pp"}

SHADOW = ["shadow", 50, 100]

STAYS = {"min_duration": "10m", "min_units": 30}
"""A step that is still there when the harm begins."""

COMMON: dict[str, Any] = {
    "tier": "low",
    "steps": [50, 100],
    "guardrails": [ERRORS],
    "bake": "0s",
    "step": {"min_duration": "10s", "min_units": 30},
    "max_unknown": "20m",
    "validation": {"timeout": "5m", "agreement_rows": 40},
    "data_checks": {"window": "30m", "min_rows": 10},
    "drift": {"window": "30m", "min_rows": 10, "on_fail": "warn", "columns": ["features.x"]},
}

EVERY_METRIC = [
    ERRORS,
    {
        "name": "per_visit",
        "type": "ratio",
        "source": "outcomes.cost",
        "denominator": "outcomes.visits",
        "margin": 2.0,
    },
    {
        "name": "returns",
        "type": "retention",
        "source": "predictions.latency_ms",
        "retention": "2s",
        "better": "higher",
        "margin": "40pp",
    },
    {
        "name": "planned",
        "type": "mean",
        "source": "outcomes.cost",
        "method": "group_sequential",
        "looks": 3,
        "margin": 2.0,
    },
]


def manifest(*, primary: Mapping[str, Any] = COST, **changed: Any) -> dict[str, Any]:
    """A manifest of seconds."""
    experiment = {
        "unit": "customer",
        "primary": dict(primary),
        "outcome_window": "3s",
        "look_every": "15s",
        "max_duration": "20m",
    }
    return COMMON | {"experiment": experiment} | changed


MODES = {
    "harmful": manifest(step=STAYS),
    "failing": manifest(steps=SHADOW, approval="every_step"),
    "differing": manifest(steps=SHADOW),
    "ordered": manifest(approval="every_step", steps=[20, 50, 100]),
    "frozen": manifest(freeze=[{"cron": "* * * * *", "duration": "2h"}]),
    "dry": manifest(dry_run=True),
    "same": manifest(ab_test={"share": 50, "duration": "4m", "then": "keep"}),
    "better": manifest(ab_test={"share": 50, "duration": "4m", "then": "promote_if_better"}),
    "shadowed": manifest(steps=SHADOW, approval="promote", bake="20s"),
    "baking": manifest(bake="1h", holdback="20%"),
    "measured": manifest(
        primary=COST | {"winsorise": 0.99, "covariate": "predictions.x"}, guardrails=EVERY_METRIC
    ),
}

SECOND = {"model": "", "slope": 7.0, "strict": False}

SECONDS: dict[str, dict[str, Any]] = {
    "harmful": {"strict": True, "slope": 10.0},
    "failing": {"strict": True, "slope": 10.0},
    "differing": {"slope": -10.0},
    "baking": {"strict": True, "slope": 9.5},
    "shadowed": {"slope": 9.5},
}
"""What the second versions are like, where they are not simply better."""

TESTS = ("same", "better")

FIRST_WAVE = ("harmful", "failing", "differing", "ordered", "frozen")

SECOND_WAVE = ("dry", "shadowed", "measured", "baking")

EXPECTED_FAILURES: set[str] = set()
"""Jobs whose runs must fail: orders that are refused."""


@pytest.fixture(scope="module")
def platform() -> Iterator[Stage]:
    """Every model's first version is the champion, the second one is registered."""
    with stage(MODES, SERVICE) as running:
        assert set(running.register({"model": m, "slope": 10.0, "strict": False} for m in MODES)) == {"1"}
        running.serve(MODES)
        others = [m for m in MODES if m != "same"]
        second = running.register(SECOND | SECONDS.get(m, {}) | {"model": m} for m in others)
        assert set(second) == {"2"}
        yield running


@pytest.fixture(scope="module")
def first_wave(platform: Stage) -> Stage:
    """The A/B tests begin here, too: their time passes meanwhile."""
    from mlflow import MlflowClient

    platform.callers.models = {*FIRST_WAVE, *TESTS}
    copied = MlflowClient(platform.settings.mlflow_uri).copy_model_version("models:/same/1", "same")
    assert str(copied.version) == "2"
    for model in TESTS:
        platform.start_test(model)
    platform.challenge(*FIRST_WAVE)
    return platform


@pytest.fixture(scope="module")
def second_wave(first_wave: Stage) -> Stage:
    first_wave.callers.models = {*SECOND_WAVE, *TESTS}
    first_wave.challenge(*SECOND_WAVE)
    return first_wave


def holds(rule: str) -> Any:
    """Whether the rollout holds by this rule."""

    def reached(state: RolloutState) -> bool:
        decision = None if state.last is None else state.last.decision
        return decision is not None and decision.kind is DecisionKind.HOLD and decision.rule == rule

    return reached


def stepping(state: RolloutState) -> bool:
    return state.phase is Phase.STEPPING


def bakes(state: RolloutState) -> bool:
    """Promoted, in the registry, too."""
    return state.phase is Phase.BAKING and Action.REGISTER in state.done


def served(platform: Stage, model: str) -> str:
    """The version that gets all live traffic."""
    status = platform.systems.backend.status(model)
    assert status.stable is not None
    assert status.canary is None or status.canary.percent == 0
    return status.stable.version


def test_of_two_rollouts_at_once_the_harmful_one_ends_and_the_other_goes_on(first_wave: Stage) -> None:
    first_wave.until("harmful", stepping)
    first_wave.until("ordered", holds("approval"))
    assert first_wave.order("ordered", "approve") == "SUCCESS"
    first_wave.until("ordered", stepping)
    first_wave.callers.plans["harmful"] = "new"
    state = first_wave.until_ended("harmful", End.ROLLED_BACK)
    assert "errors" in state.end_reason
    assert (served(first_wave, "harmful"), first_wave.champion("harmful")) == ("1", "1")
    assert first_wave.until("ordered", stepping).percent == 20
    first_wave.callers.models.discard("harmful")


def test_in_the_shadow_copies_that_fail_end_the_rollout_and_reach_nobody(first_wave: Stage) -> None:
    first_wave.until("failing", holds("approval"))
    assert first_wave.order("failing", "approve") == "SUCCESS"
    first_wave.until("failing", lambda state: state.phase is Phase.SHADOW)
    first_wave.callers.plans["failing"] = "new"
    state = first_wave.until_ended("failing", End.ROLLED_BACK)
    assert "errors" in state.end_reason
    assert max((weight.percent for weight in state.weights), default=0) == 0
    assert served(first_wave, "failing") == "1"
    assert first_wave.callers.failures.get("failing", []) == []
    first_wave.callers.models.discard("failing")


def test_in_the_shadow_answers_that_differ_hold_until_somebody_aborts(first_wave: Stage) -> None:
    state = first_wave.until("differing", holds("failed_check"))
    assert state.phase is Phase.SHADOW
    assert state.last is not None and "agree with the champion's" in state.last.decision.reason
    assert first_wave.order("differing", "abort") == "SUCCESS"
    first_wave.until_ended("differing", End.ABORTED)
    assert served(first_wave, "differing") == "1"
    first_wave.callers.models.discard("differing")


def test_a_freeze_holds_what_has_passed_until_somebody_forces_it(first_wave: Stage) -> None:
    state = first_wave.until("frozen", holds("frozen"))
    assert (state.percent, served(first_wave, "frozen")) == (0, "1")
    assert first_wave.order("frozen", "force_promote") == "SUCCESS"
    assert "forced by anna" in first_wave.until_ended("frozen", End.PROMOTED).end_reason
    assert (served(first_wave, "frozen"), first_wave.champion("frozen")) == ("2", "2")


def test_an_undo_brings_the_previous_champion_up_again_whatever_is_frozen(first_wave: Stage) -> None:
    """Its replicas are gone: it is started from the registry, and callers notice nothing."""
    assert first_wave.order("frozen", "undo") == "SUCCESS"
    assert (served(first_wave, "frozen"), first_wave.champion("frozen")) == ("1", "1")
    state = first_wave.until_ended("frozen", End.PROMOTED, version="1")
    assert (state.despite, state.champion) == ("undo: a test", "2")
    undone = first_wave.systems.registry.version("frozen", "2")
    assert undone is not None and undone.tags["rampgate.status"] == "undone"
    EXPECTED_FAILURES.add("frozen_undo")
    assert first_wave.order("frozen", "undo") == "FAILURE"
    assert served(first_wave, "frozen") == "1", "a second undo would bring back what the first one took away"
    first_wave.callers.models.discard("frozen")


def test_every_step_waits_for_its_approval_and_nothing_moves_while_paused(first_wave: Stage) -> None:
    first_wave.until("ordered", lambda state: stepping(state) and holds("approval")(state))
    assert first_wave.order("ordered", "pause") == "SUCCESS"
    EXPECTED_FAILURES.update({"ordered_pause", "ordered_start"})
    assert first_wave.order("ordered", "pause") == "FAILURE"
    assert wait_until(
        lambda: any(
            "it is paused already, by anna" in a.body for a in first_wave.alerts("run of ordered_pause")
        ),
        seconds=60,
    )
    assert first_wave.order("ordered", "approve") == "SUCCESS"
    assert first_wave.until("ordered", holds("paused")).percent == 20
    assert first_wave.order("ordered", "resume") == "SUCCESS"
    first_wave.until("ordered", lambda state: state.percent == 50)


def test_a_challenger_while_one_is_open_waits_and_is_refused_where_somebody_insists(
    first_wave: Stage,
) -> None:
    first_wave.until("ordered", stepping)
    assert first_wave.register([SECOND | {"model": "ordered"}]) == ["3"]
    first_wave.challenge("ordered", version="3")
    config = {"ops": {"start": {"config": {"version": "3"}}}}
    assert first_wave.ends(first_wave.launch("ordered", "start", config)) == "FAILURE"
    assert wait_until(
        lambda: any("ordered" in a.body for a in first_wave.alerts("run of ordered_start")), seconds=60
    )
    first_wave.until("ordered", lambda state: state.percent == 50 and holds("approval")(state))
    assert first_wave.order("ordered", "approve") == "SUCCESS"
    first_wave.until_ended("ordered", End.PROMOTED)
    first_wave.until("ordered", holds("approval"), version="3")
    assert first_wave.order("ordered", "approve") == "SUCCESS"
    first_wave.until("ordered", stepping, version="3")
    assert (first_wave.champion("ordered"), first_wave.order("ordered", "roll_back_now")) == ("2", "SUCCESS")
    assert served(first_wave, "ordered") == "2", "at once"
    first_wave.until_ended("ordered", End.ROLLED_BACK, version="3")


def test_the_same_version_twice_differs_by_nothing(second_wave: Stage) -> None:
    state = second_wave.until_ended("same", End.COMPARED)
    looks = past_looks(second_wave.systems.ledger, state.rollout_id)
    intervals = [look.look.primary.interval for look in looks if look.look.primary is not None]
    measured = [interval for interval in intervals if interval is not None]
    assert measured and all(interval.low <= 0 <= interval.high for interval in measured)
    assert not any(look.look.srm is not None and look.look.srm.is_mismatch for look in looks)
    assert (served(second_wave, "same"), second_wave.champion("same")) == ("1", "1")


def test_a_better_version_takes_the_champions_place_when_its_test_is_over(second_wave: Stage) -> None:
    state = second_wave.until_ended("better", End.PROMOTED)
    assert "challenger is better" in state.end_reason
    assert (served(second_wave, "better"), second_wave.champion("better")) == ("2", "2")


def test_harm_in_the_bake_restores_the_previous_champion_and_reaches_nobody(second_wave: Stage) -> None:
    state = second_wave.until("baking", bakes)
    assert (state.percent, second_wave.champion("baking")) == (80, "2")
    second_wave.callers.plans["baking"] = "new"
    state = second_wave.until_ended("baking", End.ROLLED_BACK)
    assert "errors" in state.end_reason
    assert (served(second_wave, "baking"), second_wave.champion("baking")) == ("1", "1")
    second_wave.callers.models.discard("baking")


def test_a_shadowed_version_is_promoted_when_somebody_approves_and_bakes_to_its_end(
    second_wave: Stage,
) -> None:
    state = second_wave.until("shadowed", holds("approval"))
    assert state.percent == 50
    assert second_wave.champion("shadowed") == "1"
    assert second_wave.order("shadowed", "approve") == "SUCCESS"
    state = second_wave.until_ended("shadowed", End.PROMOTED)
    assert "baked for 20s" in state.end_reason
    assert [weight.percent for weight in state.weights] == [50, 98, 100]
    assert (served(second_wave, "shadowed"), second_wave.champion("shadowed")) == ("2", "2")


def test_every_kind_of_metric_is_measured_and_promotes(second_wave: Stage) -> None:
    state = second_wave.until_ended("measured", End.PROMOTED)
    looks = past_looks(second_wave.systems.ledger, state.rollout_id)
    assert {metric.name for metric in looks[-1].look.metrics if metric.effect is not None} == {
        "cost", "errors", "per_visit", "returns", "planned"
    }  # fmt: skip
    constants = registered_in(looks)
    assert constants["cost"].cap is not None and constants["cost"].spec.use_covariate
    assert constants["cost"].covariate_reference != 0
    assert constants["planned"].looks == 3


def test_a_dry_run_changes_no_share_and_says_so(second_wave: Stage) -> None:
    state = second_wave.until("dry", lambda state: stepping(state) and looks_of(second_wave, state) >= 2)
    assert (state.percent, state.weights) == (0.0, ())
    assert served(second_wave, "dry") == "1"
    assert second_wave.order("dry", "abort") == "SUCCESS"
    state = second_wave.until_ended("dry", End.ABORTED)
    assert "dry run" in state.end_reason
    tags = second_wave.systems.registry.version("dry", "2")
    assert tags is not None and tags.tags["rampgate.status"] == "dry_run"


def looks_of(platform: Stage, state: RolloutState) -> int:
    return len(past_looks(platform.systems.ledger, state.rollout_id))


def test_no_run_failed_but_the_refused_orders_and_no_caller_noticed(platform: Stage) -> None:
    """Last: what all the rollouts above have left behind."""
    failed = {alert.title: alert.body for alert in platform.alerts("run of ")}
    assert set(failed) <= {f"run of {job} failed" for job in EXPECTED_FAILURES}, failed
    assert {model: found for model, found in platform.callers.failures.items() if found} == {}
    assert wait_until(lambda: everything_delivered(platform), seconds=PATIENCE_SECONDS, every=1)
    answer = httpx.get(f"{platform.systems.links.dagster}/server_info", trust_env=False)
    assert answer.status_code == 200


def everything_delivered(platform: Stage) -> bool:
    return platform.systems.ledger.outbox.waiting() == ()
