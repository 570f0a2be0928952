"""Outcomes that are missing: whole rollouts from units to decisions, where values are lost at one version or at both."""

import math
from bisect import bisect
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import Artefact, DecisionKind
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics import srm
from pipelines.core.statistics.effects import Cell, Sums
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.look_spec import Conclusion, LookSpec
from pipelines.core.statistics.loss import find_loss
from pipelines.core.statistics.srm import StepUnits
from pipelines.experiments.analysing import analyse_next
from pipelines.experiments.evidence import look_evidence
from pipelines.experiments.look_inputs import look_spec
from pipelines.experiments.registering import register
from resources.lake.measuring import Known

START = datetime(2026, 1, 1, tzinfo=UTC)

LOOKS, UNITS = 20, 500
"""Looks of a rollout, and units between two of them."""

CANARY = 0.1

ALPHA = 0.01
"""Of the test for unequal loss."""


class Scenario(NamedTuple):
    """Log-normal values (sigma 1; the mean of a unit that has one is `dearer` times e^0.5)."""

    dearer: float = 1.0
    """The challenger's true values, as a multiple of the champion's."""
    lost: str = "none"
    """Which of the challenger's values are lost: the dearest, the cheapest, or any."""
    share: float = 0.0
    """How many of them."""
    champion_share: float = 0.0
    """How many of the champion's, whichever they are."""
    buyers: tuple[float, float] = (1.0, 1.0)
    """Of champion and challenger, units to which anything happens; of the others no outcome is sent."""
    missing: str = "exclude"
    better: str = "lower"


class Played(NamedTuple):
    """What became of one rollout."""

    better: bool
    """The challenger was called better at any look."""
    promoted: bool
    rolled_back: bool
    held: bool
    """By values that are missing, at the last look."""
    looks: int
    """Until the first decision that was more than waiting; all of them where none was taken."""
    words: str
    """The last decision's reason."""


def rows(rollouts: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    yield from _called_better(rng, rollouts)
    yield _smaller_losses(rng, rollouts)
    yield _not_gone_back_for(rng, max(rollouts // 4, 50))
    for share in (0.005, 0.07, 0.5, 0.98):
        yield _false_hold(rng, share, 5 * rollouts)
    for share in (0.01, 0.07, 0.3):
        yield _units_to_detection(rng, share, max(rollouts // 4, 50))
    yield from _half_the_buyers(rng, max(rollouts // 4, 50))


# One rollout through the public look and decision.


def manifest(scenario: Scenario) -> RolloutManifest:
    """One metric, steps of 10 and 50 %; a minute between looks."""
    metric = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"}
    primary = metric | {"missing": scenario.missing, "better": scenario.better}
    return RolloutManifest.model_validate(
        {
            "model": "m",
            "steps": [10, 50, 100],
            "experiment": {"unit": "customer", "primary": primary, "look_every": "1m", "max_duration": "2h"},
            "step": {"min_duration": "5m", "min_units": 0},
        }
    )


def play(rng: np.random.Generator, scenario: Scenario, *, guarded: bool = True, looks: int = LOOKS) -> Played:
    """A rollout until it ends, or for so many looks. Not `guarded`: without the test for unequal loss."""
    asked, cells, past = manifest(scenario), list[Cell](), list[Look]()
    state, better, decided = begun(asked), False, None
    constants = register(asked.experiment.primary, asked.experiment, _history(scenario), origin="a history")
    assert constants is not None
    for number in range(1, looks + 1):
        now = START + timedelta(minutes=number)
        share = state.percent / 100
        cells.append(_cell(rng, scenario, state.step, number, share))
        by_step = {0: 0.1, 1: 0.5}
        spec = look_spec(asked, by_step, [constants], is_final=False)
        spec = spec if guarded else _unguarded(spec)
        units = tuple(_units(cells, step, by_step[step]) for step in range(state.step + 1))
        look = analyse_next(cells, spec, units, past=past, planned_looks={}, is_last_step=state.step == 1)
        past.append(look)
        better |= look.metrics[0].conclusion is Conclusion.BETTER
        decided = decide(state, look_evidence(asked, state, look, at=now), now)
        if decided.kind is DecisionKind.ADVANCE:
            state = replace(state, step=1, percent=50.0, since=now)
        if decided.kind in (DecisionKind.PROMOTE, DecisionKind.ROLL_BACK):
            break
    assert decided is not None
    return Played(
        better=better,
        promoted=decided.kind is DecisionKind.PROMOTE,
        rolled_back=decided.kind is DecisionKind.ROLL_BACK,
        held=decided.kind is DecisionKind.HOLD and "cost.missing" in decided.evidence,
        looks=len(past),
        words=decided.reason,
    )


def begun(asked: RolloutManifest) -> RolloutState:
    return RolloutState(
        rollout_id="r",
        seq=1,
        model="m",
        version="2",
        champion="1",
        artefact=Artefact(uri="models:/m/2", digest="d"),
        salt="s",
        policy=Policy.of(asked),
        manifest_digest="",
        started_at=START,
        phase=Phase.STEPPING,
        step=0,
        percent=10.0,
        since=START,
        deployed=True,
        exposed=True,
    )


def _unguarded(spec: LookSpec) -> LookSpec:
    return replace(spec, metrics=tuple(replace(m, leaves_units_out=False) for m in spec.metrics))


def _history(scenario: Scenario) -> dict[str, Known]:
    share = scenario.buyers[0] if scenario.missing == "zero" else 1.0
    mean, square = share * math.exp(0.5), share * math.exp(2)
    known = Known(
        units=10_000, value=mean, variance=square - mean**2, kurtosis=100.0, cap=None, covariate=None
    )
    return {"cost": known}


def _units(cells: list[Cell], step: int, share: float) -> StepUnits:
    here = [cell for cell in cells if cell.step == step]
    champion = sum(cell.champion.n + cell.champion_lost for cell in here)
    return StepUnits(step, champion, sum(cell.challenger.n + cell.challenger_lost for cell in here), share)


def _cell(rng: np.random.Generator, scenario: Scenario, step: int, number: int, share: float) -> Cell:
    canary = int(rng.binomial(UNITS, share))
    zero, lost = _arm(rng, scenario, UNITS - canary, 0)
    one, canary_lost = _arm(rng, scenario, canary, 1)
    return Cell("cost", step, 60.0 * number, zero, one, 0.0, lost, canary_lost)


def _arm(rng: np.random.Generator, scenario: Scenario, units: int, arm: int) -> tuple[Sums, float]:
    """The sums of what is counted, and how many units are not."""
    values = rng.lognormal(0, 1, units)
    share, which = ((scenario.champion_share, "any"), (scenario.share, scenario.lost))[arm]
    kept = ~_lost(rng, values, share, which) & (rng.random(units) < scenario.buyers[arm])
    worth = values * (scenario.dearer if arm else 1.0)
    counted = np.where(kept, worth, 0.0) if scenario.missing == "zero" else worth[kept]
    n, y, yy = float(counted.size), float(counted.sum()), float((counted**2).sum())
    return Sums(n=n, sy=y, syy=yy, sd=n, sdd=n, syd=y), float(units - counted.size)


def _lost(rng: np.random.Generator, values: np.ndarray, share: float, which: str) -> np.ndarray:
    from scipy.special import ndtri

    if share == 0:
        return np.zeros(values.size, bool)
    if which == "dearest":
        return values > math.exp(ndtri(1 - share))
    if which == "cheapest":
        return values < math.exp(ndtri(share))
    return rng.random(values.size) < share


# What is reported.


def _called_better(rng: np.random.Generator, rollouts: int) -> Iterator[dict[str, Any]]:
    lost = Scenario(dearer=1.15, lost="dearest", share=0.07)
    ours = [play(rng, lost) for _ in range(rollouts)]
    theirs = [play(rng, lost, guarded=False) for _ in range(max(rollouts // 4, 50))]
    for name, hit, before in (
        ("called better", [p.better for p in ours], [p.better for p in theirs]),
        ("promoted", [p.promoted for p in ours], [p.promoted for p in theirs]),
        ("rolled back", [p.rolled_back for p in ours], [p.rolled_back for p in theirs]),
        ("not held at the end", [not p.held for p in ours], [not p.held for p in theirs]),
    ):
        yield row(
            f"{name}: true cost +15 %, the dearest 7 % of the canary's lost, {LOOKS} looks of {UNITS} units: upper 95 % bound of"
            f" {rollouts} rollouts",
            upper_95(sum(hit), rollouts),
            float(np.mean(before)),
            f"without the test ({len(theirs)} rollouts)",
            "share of rollouts",
            0.01,
        )


def _smaller_losses(rng: np.random.Generator, rollouts: int) -> dict[str, Any]:
    """What the test does not see in time matters little."""
    shares = (0.01, 0.02, 0.03, 0.05)
    found = {
        s: [play(rng, Scenario(1.15, "dearest", s)).better for _ in range(rollouts // 4)] for s in shares
    }
    hits = sum(map(sum, found.values()))
    runs = sum(map(len, found.values()))
    return row(
        f"called better: true cost +15 %, the dearest 1, 2, 3 or 5 % lost: upper 95 % bound of {runs} rollouts",
        upper_95(hits, runs),
        hits / runs,
        "the simulated rate itself",
        "share of rollouts",
        0.02,
    )


def _not_gone_back_for(rng: np.random.Generator, rollouts: int) -> dict[str, Any]:
    lost = Scenario(lost="cheapest", share=0.3)
    ours = [play(rng, lost).rolled_back for _ in range(rollouts)]
    theirs = [play(rng, lost, guarded=False).rolled_back for _ in range(rollouts)]
    return row(
        f"rolled back: true cost unchanged, the cheapest 30 % of the canary's lost: upper 95 % bound of {rollouts} rollouts",
        upper_95(sum(ours), rollouts),
        float(np.mean(theirs)),
        f"without the test ({len(theirs)} rollouts)",
        "share of rollouts",
        0.05,
    )


def _false_hold(rng: np.random.Generator, share: float, rollouts: int) -> dict[str, Any]:
    """The same share lost at both, in a bucket after each of 100 looks."""
    hits = 0
    for _ in range(rollouts):
        hits += find_loss(_lost_cells(rng, share, share, 100), "cost", alpha=ALPHA).is_unequal
    return row(
        f"held although {share:.1%} are lost at both, 100 looks of {UNITS} units: upper 95 % bound of {rollouts} rollouts",
        upper_95(hits, rollouts),
        hits / rollouts,
        "the simulated rate itself",
        "share of rollouts",
        ALPHA,
    )


def _lost_cells(rng: np.random.Generator, champion: float, canary: float, looks: int) -> list[Cell]:
    n1 = rng.binomial(UNITS, CANARY, looks)
    x1, x0 = rng.binomial(n1, canary), rng.binomial(UNITS - n1, champion)
    columns = (column.tolist() for column in (n1, x1, x0))
    return [
        Cell("cost", 0, float(k), Sums(n=UNITS - n - b), Sums(n=n - a), 0.0, b, a)
        for k, (n, a, b) in enumerate(zip(*columns, strict=True))
    ]


def _units_to_detection(rng: np.random.Generator, share: float, rollouts: int) -> dict[str, Any]:
    """Beside the sample ratio of the counted units against the planned share, as for exposed units."""
    times = np.zeros((2, rollouts))
    for run in range(rollouts):
        cells = _lost_cells(rng, 0.002, share, 1_000)
        champion = np.cumsum([cell.champion.n for cell in cells])
        canary = np.cumsum([cell.challenger.n for cell in cells])
        # What was found stays found.
        found = bisect(
            range(1, len(cells)), False, key=lambda k: find_loss(cells[:k], "cost", alpha=ALPHA).is_unequal
        )
        times[0, run] = found + 1
        counted = zip(champion.tolist(), canary.tolist(), strict=True)
        planned = (srm.log_e([StepUnits(0, *each, CANARY)]) >= -math.log(ALPHA) for each in counted)
        times[1, run] = next((k for k, is_found in enumerate(planned, 1) if is_found), len(cells))
    ours, theirs = UNITS * times
    error = ours.std() / math.sqrt(rollouts)
    return row(
        f"units to detection, {share:.0%} of the canary's values lost and 0.2 % of the champion's, canary 10 % (+-{error:.2g})",
        ours.mean(),
        theirs.mean(),
        f"the sample ratio of counted units against the planned share (+-{theirs.std() / math.sqrt(rollouts):.2g};"
        f" {1_000 * UNITS:,} where it found nothing)",
        "units",
        round(float(theirs.mean()), 1),
    )


def _half_the_buyers(rng: np.random.Generator, rollouts: int) -> Iterator[dict[str, Any]]:
    """Revenue is posted for buyers only."""
    halved = Scenario(buyers=(0.2, 0.1), missing="zero", better="higher")
    ours = [play(rng, halved, looks=40) for _ in range(rollouts)]
    theirs = [play(rng, halved._replace(missing="exclude"), guarded=False, looks=40) for _ in range(rollouts)]
    left_out = [play(rng, halved._replace(missing="exclude")) for _ in range(rollouts)]
    what = f"half the buyers (10 against 20 %), revenue posted for buyers only, {rollouts} rollouts"
    yield row(
        f"not rolled back, {what}, missing: zero",
        1 - float(np.mean([p.rolled_back for p in ours])),
        1 - float(np.mean([p.rolled_back for p in theirs])),
        "missing: exclude, without the test",
        "share of rollouts",
        0.02,
    )
    yield row(
        f"neither held nor rolled back, {what}, missing: exclude",
        1 - float(np.mean([p.held or p.rolled_back for p in left_out])),
        1 - float(np.mean([p.held or p.rolled_back for p in theirs])),
        "without the test",
        "share of rollouts",
        0.02,
    )
