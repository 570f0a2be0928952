"""Whatever is looked up by, or told apart by, an enum's or a union's member knows every member."""

import enum
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import dagster as dg
import pytest

from pipelines.core.errors import CommandRefused
from pipelines.core.manifest.model import (
    Better,
    Check,
    CheckType,
    Drift,
    Experiment,
    Guardrail,
    Method,
    RolloutManifest,
)
from pipelines.core.metric_types import TYPES, MetricType, UnitValue
from pipelines.core.rollout import events as rollout_events
from pipelines.core.rollout.alerts import alerts_of
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import (
    Action,
    Decision,
    DecisionKind,
    End,
    Event,
    Intent,
    Order,
    dump,
    load,
)
from pipelines.core.rollout.fold import before_promotion, step
from pipelines.core.rollout.policy import AbTestPolicy, Policy, Severity
from pipelines.core.rollout.standing import Status, standings
from pipelines.core.rollout.state import Phase, RolloutState, Trouble, owed
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.look_spec import Conclusion, Direction, MetricSpec
from pipelines.core.statistics.metric_look import Harm, MetricLook, metric_sentence
from pipelines.core.statistics.power import SequentialMethod as Analysis
from pipelines.core.statistics.sequences import Interval
from pipelines.core.vocabulary import (
    AfterTest,
    Evidence,
    NeededFor,
    OnFail,
    OnNewChallenger,
    OnUnknown,
    Verdict,
)
from pipelines.demo.story import in_words as demo_words
from pipelines.experiments.evidence import harm_evidence
from pipelines.experiments.history import metric_query
from pipelines.experiments.registering import METHODS, design, guardrail_spec
from pipelines.monitoring.evidence import from_drift
from pipelines.reports import page as page_module
from pipelines.reports.metadata import decision_metadata
from pipelines.reports.page import page
from pipelines.reports.story import Story, read_story
from pipelines.rollouts.actions import Effects, outcome, register
from pipelines.rollouts.controller import check_order
from pipelines.rollouts.naming import Turn
from pipelines.rollouts.sections import Of, Sections
from pipelines.rollouts.serving_metrics import ERRORS, ServingMetric
from pipelines.rollouts.start import Mode
from resources.checks import data_docs
from resources.checks.columns import incomparable
from resources.checks.evidently import Comparison, DriftReport
from resources.checks.expectations import expected, needs
from resources.lake.experiment import Missing
from resources.ledger.ledger import Ledger
from resources.notifier import Notifier
from resources.prediction_log.segments import Durability
from resources.registry.client import Registration
from resources.registry.signature import ColumnKind
from resources.serving.contract import Answers, RevisionCounters
from resources.serving.embedded.supervisor import FAILED, STOPPED
from resources.serving.kserve import service as kserve_mode
from resources.serving.kserve.driver import Patience, Timing
from resources.serving.kserve.prometheus import BY_MODE, PRESETS
from resources.settings import Settings
from sensors.challenger import challenger_sensor
from sensors.routine import INGEST, WINDOWS
from tests.support.memory_backend import MemoryBackend, MemoryRegistry, World
from tests.support.memory_systems import MemorySystems, given, start_rollout
from tests.support.rollouts import MODEL, START, Rig, good, manifest

COVERED: set[type[enum.Enum]] = {
    *(Action, AfterTest, Analysis, Better, Comparison, Conclusion, DecisionKind, Direction, End),
    *(
        EffectKind,
        Method,
        Missing,
        Mode,
        NeededFor,
        Of,
        OnFail,
        OnUnknown,
        Order,
        Patience,
        UnitValue,
    ),
    *(
        Phase,
        Status,
        Verdict,
        kserve_mode.DeploymentMode,
        ColumnKind,
        OnNewChallenger,
        Registration,
        Turn,
    ),
}
"""Enums whose members the tests below go through, one by one."""

EVENTS: tuple[type[Any], ...] = get_args(Event)


def test_an_enum_that_nobody_tests_over_all_its_members_is_found() -> None:
    ours = ("pipelines", "resources", "assets", "sensors")
    found = {each for name in ours for module in _modules(name) for each in _enums(module)}
    assert {each.__name__ for each in found - COVERED} == set()


def _modules(package: str) -> Iterator[ModuleType]:
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not info.name.endswith("__main__") and _has_enum(Path(info.module_finder.path), info.name):  # type: ignore[union-attr]
            yield importlib.import_module(info.name)


def _has_enum(folder: Path, name: str) -> bool:
    """Only what declares one is imported: some modules load libraries for seconds."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    return path.is_file() and "Enum)" in path.read_text()


def _enums(module: ModuleType) -> Iterator[type[enum.Enum]]:
    for each in vars(module).values():
        if isinstance(each, type) and issubclass(each, enum.Enum) and each.__module__ == module.__name__:
            yield each


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A rollout at its first step, with one piece of evidence of each kind."""
    rig = Rig(tmp_path_factory.mktemp("story"))
    rollout_id = rig.start()
    rig.controller().drive(rollout_id, good(rig.clock.now))
    return read_story(rig.ledger, rollout_id, boundary=3.0)


def decision(kind: DecisionKind, end: End | None = None, percent: float | None = None) -> Decision:
    return Decision(kind=kind, rule="passed", reason="because", step=1, percent=percent, end=end)


def decided(state: RolloutState, kind: DecisionKind, end: End | None = None) -> RolloutState:
    event = rollout_events.Decided(
        rollout_id=state.rollout_id, seq=state.seq + 1, at=START, by="test", decision=decision(kind, end)
    )
    return step(before_promotion(state), event)


def event(kind: type[Any], state: RolloutState) -> Any:
    """An event of this kind that fits after `state`."""
    common = {"rollout_id": state.rollout_id, "seq": state.seq + 1, "at": START, "by": "test"}
    own: dict[str, dict[str, Any]] = {
        "Started": {
            "model": MODEL,
            "version": "2",
            "champion": "1",
            "artefact": state.artefact,
            "salt": "",
            "policy": state.policy,
            "manifest_digest": "",
        },
        "Refused": {"model": MODEL, "version": "2", "reason": "broken"},
        "EvidenceRecorded": {"evidence": good(START)},
        "Intent": {"action_id": "x", "action": Action.SHADOW},
        "Done": {"action_id": "x"},
        "Failed": {"action_id": "x", "message": "no answer"},
        "Decided": {"decision": decision(DecisionKind.HOLD)},
        "Command": {"order": Order.PAUSE, "reason": "because"},
        "Lapsed": {"taken_at": START, "percent": 10.0, "reason": "nobody has watched it"},
        "ClockSet": {"back": timedelta(hours=2)},
        "Ended": {"end": End.COMPARED, "reason": "over"},
    }
    return kind(**common, **own[kind.__name__])


def in_phase(state: RolloutState, phase: Phase) -> RolloutState:
    """The state in this phase, with the decision that led there."""
    if phase is Phase.PROMOTING:
        return decided(state, DecisionKind.PROMOTE, End.PROMOTED)
    if phase is Phase.ROLLING_BACK:
        return decided(state, DecisionKind.ROLL_BACK, End.ROLLED_BACK)
    end = End.COMPARED if phase is Phase.ENDED else None
    return replace(state, phase=phase, end=end, percent=10.0)


def shown(story: Story, state: RolloutState) -> str:
    return page(replace(story, state=state), (), written=START)


@pytest.mark.parametrize("end", End)
def test_every_end_has_its_words_its_alert_its_tags_and_its_row(
    end: End, story: Story, tmp_path: Path
) -> None:
    state = decided(story.state, DecisionKind.ROLL_BACK, end)
    ended = rollout_events.Ended(
        rollout_id=state.rollout_id, seq=state.seq + 1, at=START, by="test", end=end, reason="over"
    )
    after = step(state, ended)
    assert f"{MODEL} version 2 was " in shown(story, after)
    assert [alert.title for alert in alerts_of(after, ended)] == [f"{MODEL} version 2: ended: {end}"]
    assert list(demo_words([ended]))
    world = World()
    register(MemoryRegistry(world), state)
    assert world.tags[MODEL, "2", "rampgate.status"] == outcome(state)[0] == end
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.append(*story.events[:1], ended)
    assert [row.end for row in ledger.rollouts()] == [end]
    ledger.close()


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("kind", DecisionKind)
def test_every_decision_has_its_words_and_its_alert(kind: DecisionKind, dry: bool, story: Story) -> None:
    state = replace(story.state, policy=replace(story.state.policy, dry_run=dry))
    for percent in (None, 0.0, 10.0):
        made = decision(kind, End.COMPARED, percent)
        happened = event(rollout_events.Decided, state).model_copy(update={"decision": made})
        after = step(state, happened)
        alerts = alerts_of(after, happened)
        assert all("because" in alert.body for alert in alerts)
        assert bool(alerts) == (kind is not DecisionKind.CONTINUE)
        told = replace(story, events=(*story.events, happened), state=after)
        assert "because" in page(told, (), written=START)
        list(demo_words([happened]))


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_shown_decided_on_and_takes_or_refuses_every_order(phase: Phase, story: Story) -> None:
    state = in_phase(story.state, phase)
    assert f"<h1>{MODEL} version 2 " in shown(story, state)
    assert decide(state, good(START), START).reason
    owed(state)
    for order in Order:
        given = event(rollout_events.Command, state).model_copy(update={"order": order})
        try:
            check_order(state, order)
        except CommandRefused as refused:
            assert str(order) in str(refused)
        if phase is not Phase.ENDED:
            after = step(state, given)
            assert [str(order) in alert.title for alert in alerts_of(after, given)] == [True]
            assert decide(after, (), START).reason


@pytest.mark.parametrize("outcome_of", ["done", "landed", "failed"])
@pytest.mark.parametrize("action", Action)
def test_every_action_is_carried_out_folded_and_told(action: Action, outcome_of: str, story: Story) -> None:
    phase = Phase.PROMOTING if action is Action.PROMOTE else Phase.STEPPING
    state = in_phase(story.state, phase)
    intent = event(Intent, state).model_copy(update={"action": action, "percent": 20.0, "step": 0})
    pending = step(state, intent)
    kind = rollout_events.Failed if outcome_of == "failed" else rollout_events.Done
    end = event(kind, pending)
    if outcome_of == "landed":
        end = end.model_copy(update={"landed": True})
    after = step(pending, end)
    assert after.pending is None
    alerts = alerts_of(after, end)
    assert bool(alerts) == (outcome_of != "done" or action is Action.BAKE)
    list(demo_words([intent, end]))
    world = World()
    world.serving(MODEL, "1")
    backend = MemoryBackend(world)
    if action is not Action.DEPLOY:
        Effects(backend, MemoryRegistry(world)).perform(
            state, intent.model_copy(update={"action": Action.DEPLOY})
        )
    calm = decided(replace(state, percent=0.0), DecisionKind.ROLL_BACK, End.ROLLED_BACK)
    Effects(backend, MemoryRegistry(world)).perform(calm, intent)
    assert world.effects or world.tags


@pytest.mark.parametrize("kind", EVENTS, ids=[kind.__name__ for kind in EVENTS])
def test_every_event_is_kept_told_and_folded(kind: type[Any], story: Story, tmp_path: Path) -> None:
    pending = replace(
        story.state, pending=event(Intent, story.state).model_copy(update={"action": Action.SHADOW})
    )
    state = pending if kind.__name__ in ("Done", "Failed") else story.state
    happened = event(kind, state)
    assert load(dump(happened), rollout_id=happened.rollout_id, seq=happened.seq) == happened
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.append(happened)
    assert ledger.events(happened.rollout_id, since=happened.seq) == (happened,)
    ledger.close()
    list(demo_words([happened]))
    if kind.__name__ in ("Started", "Refused"):
        assert alerts_of(state, happened)
    else:
        alerts_of(step(state, happened), happened)


def test_every_verdict_stands_is_shown_and_explained(story: Story, systems: MemorySystems) -> None:
    seen: set[Status] = set()
    rollout = start_rollout(systems)
    for verdict, on_fail, needed, pending in itertools.product(Verdict, OnFail, NeededFor, (True, False)):
        item = Evidence(
            name="errors",
            source="serving",
            verdict=verdict,
            reason="because",
            at=story.state.since + timedelta(seconds=1),
            on_fail=on_fail,
            needed_for=needed,
            pending=pending,
        )
        state = replace(story.state, evidence={"errors": item})
        seen |= {s.status for s in standings(state, state.evidence, item.at)}
        assert decide(state, (), item.at).reason
        assert "because" in shown(story, state)
    assert seen == set(Status)
    systems.controller.record(
        rollout,
        [Evidence(name=v, source="drift", verdict=v, reason="because", at=START) for v in Verdict],
    )
    state = systems.controller.state(rollout)
    assert set(Verdict) <= {item.verdict for item in state.evidence.values()}
    for kind in DecisionKind:
        told = decision_metadata(systems.links, state, decision(kind))
        assert str(told["decision"].value) == f"{kind.replace('_', ' ')}: because"


@pytest.mark.parametrize(("what", "then"), [*itertools.product(OnUnknown, AfterTest)])
def test_every_way_to_go_on_is_decided(what: OnUnknown, then: AfterTest, story: Story) -> None:
    policy = replace(
        story.state.policy, on_unknown=what, ab_test=AbTestPolicy(duration=timedelta(0), then=then)
    )
    blind = Evidence(name="errors", source="serving", verdict=Verdict.UNKNOWN, reason="blind", at=START)
    long_ago = {"errors": START - timedelta(days=9)}
    for evidence in (good(START), (blind,)):
        state = replace(story.state, policy=policy, unknown_since=long_ago)
        assert decide(state, evidence, START).reason


# apprise looks for a module of the standard library that Python 3.13 drops.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("severity", get_args(Severity))
def test_every_severity_reaches_a_channel(severity: Severity, tmp_path: Path, story: Story) -> None:
    """The channel is closed; what it says must be its own words, not that a severity is unknown."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    (alert,) = alerts_of(story.state, story.events[0])
    ledger.outbox.add(replace(alert, severity=severity))
    settings = Settings.from_environment(
        {"RAMPGATE_HOME": str(tmp_path), "RAMPGATE_ALERT_URLS": "json://127.0.0.1:1/"}
    )
    notifier = Notifier(ledger, settings, clock=lambda: START, environment={})
    assert notifier.deliver().failed == 1
    error = ledger.outbox.deliveries(alert.key)["RAMPGATE_ALERT_URLS#1"].error
    assert error == "did not take the alert"
    ledger.close()


@pytest.mark.parametrize(("kind", "method", "better"), [*itertools.product(TYPES.values(), Method, Better)])
def test_every_metric_of_a_manifest_has_an_analysis(kind: MetricType, method: Method, better: Better) -> None:
    keys: dict[str, Any] = {"denominator": "outcomes.n", "retention": timedelta(days=1)}
    needed = {key: keys[key] for key in kind.needs}
    guardrail = Guardrail.model_construct(
        name="m", type=kind, source="outcomes.m", margin=0.01, method=method, better=better, **needed
    )
    experiment = manifest().experiment
    assert isinstance(experiment, Experiment)
    spec = guardrail_spec(guardrail, experiment)
    assert spec.kind in EffectKind
    assert spec.better == Direction(better.value)
    assert design(guardrail, experiment).method in Analysis
    query = metric_query(guardrail, by_request=False)
    assert (query.kind, spec.kind) == (kind.unit_value, kind.kind)


@pytest.mark.parametrize(("conclusion", "kind"), [*itertools.product(Conclusion, EffectKind)])
def test_every_conclusion_has_its_sentence_and_its_evidence(conclusion: Conclusion, kind: EffectKind) -> None:
    look = MetricLook(
        name="cost",
        kind=kind,
        is_primary=True,
        conclusion=conclusion,
        champion=0.1,
        challenger=0.2,
        champion_units=10,
        challenger_units=10,
        effect=0.1,
        interval=Interval(0.0, 0.2),
        relative=None,
        relative_interval=None,
        harm=Harm(1.0, 2.0),
        worst=0.2,
        margin=0.1,
        is_within_margin=conclusion is Conclusion.NON_INFERIOR,
        fraction=None,
        sentence="",
    )
    assert metric_sentence(look, 0.05)
    primary = manifest().experiment.primary
    assert harm_evidence(primary, look, at=START, valid_for=timedelta(hours=1)).verdict in Verdict


@pytest.mark.parametrize(("direction", "method"), [*itertools.product(Direction, Analysis)])
def test_every_direction_has_a_sign(direction: Direction, method: Analysis) -> None:
    spec = MetricSpec(
        name="m", kind=EffectKind.MEAN, better=direction, margin=0.1, method=method, planned_information=1.0
    )
    assert spec.harm_sign() == (1 if direction is Direction.LOWER else -1)


def test_every_table_that_is_looked_up_by_a_member_has_them_all() -> None:
    tiers = get_args(RolloutManifest.model_fields["tier"].annotation)
    assert set(data_docs._COLOUR) == set(page_module._VERDICT) == set(Verdict)
    assert set(page_module._DECISION) == set(DecisionKind)
    assert set(INGEST) == set(WINDOWS) == set(tiers)
    assert {each.unit_value for each in TYPES.values()} == set(UnitValue)
    assert set(METHODS) == set(Method)


@pytest.mark.parametrize("comparison", Comparison)
def test_every_drift_comparison_is_evidence(comparison: Comparison) -> None:
    report = DriftReport(
        model=MODEL,
        comparison=comparison,
        window_start=START,
        window_end=START,
        reference_rows=0,
        current_rows=0,
    )
    found = from_drift(report, Drift(), at=START, valid_for=timedelta(hours=1))
    assert found.name.startswith("drift_")


@pytest.mark.parametrize("kind", get_args(CheckType))
def test_every_data_check_has_its_words(kind: CheckType) -> None:
    assert expected(Check(column="features.x", type=kind, min=0, max=1, values=("a",), regex="a"))


@pytest.mark.parametrize("missing", Missing)
def test_a_missing_value_is_zero_or_left_out(missing: Missing) -> None:
    assert missing in (Missing.ZERO, Missing.EXCLUDE)


def test_every_deployment_mode_has_its_counters_and_every_wait_its_limit() -> None:
    assert {mode: BY_MODE[mode] in PRESETS for mode in kserve_mode.DeploymentMode} == dict.fromkeys(
        kserve_mode.DeploymentMode, True
    )
    assert all(Timing().of(patience) > 0 for patience in Patience)
    assert set(get_args(Durability)) == {"process", "power"}


def test_every_state_of_a_supervised_process_is_placed() -> None:
    from supervisor.states import ProcessStates

    known = {name for name in vars(ProcessStates) if name.isupper()}
    running = {"STARTING", "RUNNING", "STOPPING"}
    assert known == STOPPED | FAILED | running


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_of_a_start_has_a_policy(mode: Mode) -> None:
    wanted = manifest(ab_test={"share": 50, "duration": "1d"})
    make: Callable[[Any], Policy] = Policy.of_test if mode is Mode.ab_test else Policy.of
    assert (make(wanted).ab_test is not None) == (mode is Mode.ab_test)


def test_a_trouble_with_every_action_is_told(story: Story) -> None:
    for action in Action:
        pending = replace(
            story.state,
            pending=event(Intent, story.state).model_copy(update={"action": action}),
            trouble=Trouble(action, START, 1, "no answer", final=False, own=0),
        )
        failed = event(rollout_events.Failed, pending)
        assert alerts_of(step(pending, failed), failed)


@pytest.mark.parametrize("kind", ColumnKind)
def test_every_kind_of_column_is_told_what_drift_and_checks_make_of_it(kind: ColumnKind) -> None:
    assert (incomparable(kind) is None) == (kind not in (ColumnKind.TIMES, ColumnKind.LISTS))
    between = Check.model_validate({"type": "between", "column": "features.x", "min": 0})
    assert (needs(between, kind) is None) == (kind in (ColumnKind.NUMBERS, ColumnKind.BOOLEANS))


@pytest.mark.parametrize("answer", OnNewChallenger)
@pytest.mark.parametrize("status", Registration)
def test_a_challenger_beside_an_open_rollout_is_answered_whatever_the_manifest_and_mlflow_say(
    systems: MemorySystems, answer: OnNewChallenger, status: Registration
) -> None:
    rollout = start_rollout(systems)
    systems.registry.known.add("3")
    systems.registry.status = status
    systems.challenge("3")
    wanted = replace(
        systems.model, rollout=systems.model.rollout.model_copy(update={"on_new_challenger": answer})
    )
    with dg.DagsterInstance.ephemeral() as instance:
        said = challenger_sensor([wanted], tick=timedelta(0))(
            dg.build_sensor_context(instance=instance, resources=given(systems))
        )
    assert isinstance(said, dg.SkipReason)
    gives_way = answer is OnNewChallenger.REPLACE and status is Registration.READY
    assert (systems.controller.state(rollout).ordered is not None) == gives_way


def test_every_turn_leaves_the_queue_before_those_that_wait_longer() -> None:
    priorities = [int(turn.tags["dagster/priority"]) for turn in Turn]
    assert priorities == sorted(set(priorities))
    assert (min(Turn), max(Turn)) == (Turn.SCHEDULED, Turn.ORDER)


@pytest.mark.parametrize("of", Of)
def test_each_test_on_live_counters_counts_its_own_answers(of: Of) -> None:
    metric = ServingMetric(name=f"errors{of}", source=ERRORS, slo_ms=None, on_fail=OnFail.ROLL_BACK, of=of)
    first, distinct = Answers(requests=6, errors=4), Answers(requests=3, errors=2)
    shown = RevisionCounters(revision="r", version="2", requests=9, errors=5, first=first, distinct=distinct)
    whole = (9, 5)
    expected = {Of.FIRST: (6, 4), Of.BLOCK: (6, 4), Of.DISTINCT: (3, 2), Of.LATER: (3, 2)}
    assert metric.counted(shown) == expected.get(of, whole)
    assert (metric.plain, metric.by_unit) == ("errors", of is not Of.ANSWERS)
    assert Sections(None).log_weight(of) <= 0
    assert isinstance(Sections(None).in_words(of), str)
