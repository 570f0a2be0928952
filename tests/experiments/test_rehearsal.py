"""Rollouts rehearsed on a champion's history: beside a direct simulation, with harm put in, and where there is too little."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.errors import LakeError
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.statistics.binomial import log_e_process
from pipelines.experiments.rehearsal import Rehearsal, RehearsedVersion, rehearse
from pipelines.experiments.rehearsal_draws import InjectedHarm
from pipelines.experiments.rehearsal_rollout import Rehearsed
from pipelines.experiments.rehearsal_stage import CannotRehearse, RehearsalStage, set_stage
from pipelines.experiments.rehearsal_words import (
    headline,
    injected,
    markdown,
    numbers,
    rows,
    sentences,
    upper_95,
    warnings,
)
from resources.lake.connection import Lake
from resources.lake.schema import ensure_tables
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import lake_below

BEGIN = datetime(2026, 11, 2, tzinfo=UTC)

HOURS = 6

EACH = 20
"""Answers of a caller."""

CALLERS = 2400

OFTEN, SELDOM, FAILING = 0.4, 0.004, 0.05
"""A caller in twenty fails often."""


def manifest(**changes: Any) -> RolloutManifest:
    """One step of 20 % that lasts nearly as long as the rollout may: harm is all that can end it sooner."""
    experiment = {
        "primary": {"name": "score", "type": "mean", "source": "predictions.score", "mde": "50%"},
        "look_every": "30m",
        "max_duration": "3h",
        **changes.pop("experiment", {}),
    }
    return RolloutManifest.model_validate(
        {
            "model": "churn",
            "steps": [20, 100],
            "bake": "0s",
            "experiment": experiment,
            "guardrails": [
                {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "20pp"}
            ],
            "step": {"min_duration": "170m", "min_units": 50},
            "data_checks": {"window": "10m"},
            "drift": {"window": "10m", "min_rows": 50},
        }
        | changes
    )


def filled(folder: Path, *, clustered: bool, callers: int = CALLERS) -> Lake:
    """Six hours of answers; a caller asks twenty times within some minutes."""
    lake = lake_below(folder)
    rng = np.random.default_rng(5)
    failing, at = answers_of(rng, callers, clustered=clustered, hours=HOURS)
    with lake.connect() as connection:
        schema = ModelSchema((Column("amount", "double"),), (Column("score", "double"),))
        ensure_tables(lake, connection, "churn", schema)
        import pandas as pd  # the quickest way into DuckDB

        frame = pd.DataFrame(
            {
                "i": np.arange(failing.size),
                "seconds": at.ravel(),
                "status": np.where(failing.ravel(), 500, 200),
                "score": rng.normal(5, 1, failing.size),
            }
        )
        connection.register("frame", frame)
        connection.execute(
            f"""INSERT INTO lake.churn.predictions BY NAME
            SELECT 'r' || i AS request_id, 0 AS "row", 'u' || (i // {EACH}) AS unit_id, 'c-1' AS revision, '1' AS version,
                'weighted' AS assignment, $begin + to_microseconds((seconds * 1e6)::BIGINT) AS requested_at,
                5.0 AS latency_ms, status, {{'amount': 1.0::DOUBLE}} AS features, {{'score': score}} AS outputs,
                's' AS segment FROM frame""",
            {"begin": BEGIN},
        )
        connection.unregister("frame")
    return lake


def answers_of(
    rng: np.random.Generator, callers: int, *, clustered: bool, hours: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer fails and when it was, shape (callers, answers)."""
    mean = FAILING * OFTEN + (1 - FAILING) * SELDOM
    often = np.where(rng.random((callers, 1)) < FAILING, OFTEN, SELDOM)
    failing = rng.random((callers, EACH)) < (often if clustered else mean)
    begin = rng.random((callers, 1)) * hours * 3600
    return failing, (begin + rng.random((callers, EACH)) * 300) % (hours * 3600)


def simulated(runs: int, alpha: float, *, clustered: bool) -> float:
    """How often the live test takes an identical version back within three hours, on fresh traffic each time."""
    rng, hits = np.random.default_rng(9), 0
    for _ in range(runs):
        failing, at = answers_of(rng, CALLERS // 2, clustered=clustered, hours=HOURS / 2)
        canary = rng.permutation(len(failing)) < 0.2 * len(failing)
        order = np.argsort(at.ravel())[: failing.size // 50 * 50]
        side, event = np.repeat(canary, EACH)[order].reshape(-1, 50), failing.ravel()[order].reshape(-1, 50)
        n1, x1 = side.sum(axis=1), (side & event).sum(axis=1)
        path = log_e_process(n1, x1, 50 - n1, event.sum(axis=1) - x1)
        hits += bool(path.max() >= np.log(2 / alpha))
    return hits / runs


@dataclass(frozen=True)
class Histories:
    clustered: Lake
    independent: Lake


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Histories]:
    yield Histories(
        filled(tmp_path_factory.mktemp("clustered"), clustered=True),
        filled(tmp_path_factory.mktemp("independent"), clustered=False),
    )


NOW = BEGIN + timedelta(hours=HOURS)


def staged(lake: Lake, **changes: Any) -> RehearsalStage:
    return set_stage(lake, manifest(**changes), "1", now=NOW, most_starts=2)


def test_false_rollbacks_agree_with_a_direct_simulation_where_answers_of_a_caller_depend_on_each_other(
    histories: Histories,
) -> None:
    direct = simulated(200, 0.05, clustered=True)
    assert direct > 0.15, "clusters must matter, or the comparison says nothing"
    found = rehearse(staged(histories.clustered), same=100, harmed=0)
    rehearsed = found.same.of("rolled_back") / 100
    error = np.sqrt(direct * (1 - direct) * (1 / 200 + 1 / 100))
    assert abs(rehearsed - direct) < 4 * error
    assert {name for each in found.same.found for name in each.because} == {"errors"}
    (warning, *_) = warnings(found)
    assert "Units that depend on each other" in warning


def test_independent_answers_are_seldom_taken_back_and_harm_is_found_the_sooner_the_larger_it_is(
    histories: Histories,
) -> None:
    found = rehearse(staged(histories.independent), same=24, harmed=5, levels=(0.05, 0.2, 0.8))
    assert found.same.of("rolled_back") <= 4
    assert found.same.of("promoted") >= 19
    errors = [played for played in found.harmed if played.harm and played.harm.metric == "errors"]
    assert [len(played.found) for played in errors] == [5, 5, 5]
    seconds = [played.seconds() or 0.0 for played in errors]
    assert seconds[0] > seconds[1] > seconds[2] > 0
    hit = [played.hit or 0.0 for played in errors]
    assert 0 < hit[2] < 40 and hit[0] < 60
    assert all(each.live for played in errors for each in played.found)
    score = [played for played in found.harmed if played.harm and played.harm.metric == "score"]
    assert all(name == "score.harm" for each in score[-1].found for name in each.because)
    assert len(score[-1].found) == 5
    assert [row.version for row in rows(found)][0] == "identical"
    assert headline(found).startswith(
        f"identical version: promoted in {found.same.of('promoted')} of 24 after"
    )
    assert "errors harmed: 5 % found after" in headline(found)
    assert markdown(rows(found)).count("\n") == 1 + 7
    assert numbers(found)["harm"][0]["metric"] == "score"
    told = "\n".join(sentences(found))
    assert "version 1's own 6 hours" in told and "Not played" in told


def test_the_same_history_gives_the_same_answer(histories: Histories) -> None:
    once, again = (rehearse(staged(histories.independent), same=4, harmed=1) for _ in range(2))
    assert once.same == again.same and once.harmed == again.harmed


def test_a_bake_is_played_too_and_an_identical_version_stays(histories: Histories) -> None:
    stage = staged(histories.independent, bake="30m", step={"min_duration": "30m", "min_units": 50})
    found = rehearse(stage, same=8, harmed=0)
    assert found.same.of("promoted") >= 6
    days = found.same.days()
    assert days is not None and 30 / 1440 <= days < 3 / 24


def test_units_that_return_are_exposed_once_from_each_start(histories: Histories) -> None:
    stage = staged(histories.independent, experiment={"unit": "customer", "outcome_window": "5m"})
    scene = stage.scene(0)
    assert scene.units[:, :, 0].sum() <= CALLERS
    assert (scene.answers[:, :, 1, 0] <= scene.answers[:, :, 0, 0]).all()
    found = rehearse(stage, same=4, harmed=2, levels=(0.5,))
    errors = next(p for p in found.harmed if p.harm and p.harm.metric == "errors")
    assert len(errors.found) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": ["shadow", 100]}, "none between 0 and 100 %"),
        (
            {"experiment": {"outcome_window": "24h", "unit": "customer", "max_duration": "4d"}},
            "too little history: a rollout takes 24 hours at least",
        ),
        (
            {
                "experiment": {
                    "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"},
                    "outcome_window": "1m",
                }
            },
            "no outcomes named cost yet; so far there are none at all. A rollout would wait",
        ),
    ],
)
def test_too_little_is_refused_in_words(histories: Histories, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotRehearse, match=words.replace(".", r"\.")):
        staged(histories.independent, **changes)


def test_a_version_without_answers_a_source_that_is_not_there_and_units_without_ids_are_refused(
    histories: Histories, tmp_path: Path
) -> None:
    with pytest.raises(CannotRehearse, match="version 7, which is served, has answered nothing"):
        set_stage(histories.independent, manifest(), "7", now=NOW)
    primary = {"name": "score", "type": "mean", "source": "predictions.nonsense", "mde": "5%"}
    with pytest.raises(LakeError, match=r"'predictions\.nonsense' is not there"):
        staged(histories.independent, experiment={"primary": primary})
    with pytest.raises(LakeError, match="holds nothing of model"):
        set_stage(lake_below(tmp_path), manifest(), "1", now=NOW)
    lake = filled(tmp_path / "nameless", clustered=False, callers=50)
    with lake.connect() as connection:
        connection.execute("UPDATE lake.churn.predictions SET unit_id = NULL")
    with pytest.raises(CannotRehearse, match="none of 1,000 answers of version 1 carries the unit id"):
        set_stage(lake, manifest(experiment={"unit": "customer", "outcome_window": "1m"}), "1", now=NOW)


def test_what_is_put_in_is_said_for_every_metric_type() -> None:
    made = RolloutManifest.model_validate(
        {
            "model": "churn",
            "steps": [10, 100],
            "experiment": {
                "unit": "customer",
                "primary": {"name": "a", "type": "mean", "source": "outcomes.a", "mde": "5%", "better": "higher"},
            },
            "guardrails": [
                {"name": "b", "type": "ratio", "source": "outcomes.a", "denominator": "outcomes.b", "margin": 1},
                {"name": "c", "type": "retention", "source": "predictions.score", "retention": "1d", "better": "higher", "margin": "1pp"},
                {"name": "d", "type": "proportion", "source": "outcomes.a", "margin": "1pp"},
                {"name": "e", "type": "proportion", "source": "serving.errors", "margin": "1pp"},
            ],
        }
    )  # fmt: skip
    said = [
        injected(metric, InjectedHarm(metric.name, 0.05))
        for metric in (made.experiment.primary, *made.guardrails)
    ]
    assert said == [
        "a: every unit's value 5 % smaller at the challenger",
        "b: every unit's value 5 % larger at the challenger",
        "c: 5 % of the challenger's units that had it lose it",
        "d: 5 % of the challenger's good units become bad",
        "e: 5 % of the challenger's good answers become bad",
    ]


def test_what_a_manifest_does_not_keep_is_warned_of(histories: Histories) -> None:
    stage = staged(histories.independent)  # the words are about its manifest

    def of(**ends: int) -> Rehearsal:
        same = [
            Rehearsed(end, 60.0, ("units",), frozenset(), 0.0) for end, n in ends.items() for _ in range(n)
        ]
        return Rehearsal(stage=stage, same=RehearsedVersion(None, tuple(same)), harmed=())

    assert warnings(of(promoted=98, rolled_back=2)) == ()
    (waits,) = warnings(of(promoted=50, inconclusive=50))
    assert "asked for are 80 %. What it waited for: units 50. `units` is `step.min_units`." in waits
    assert (
        "rolled back in 15 of 100 rollouts, `alpha` allows 5 %"
        in warnings(of(promoted=85, rolled_back=15))[0]
    )
    assert upper_95(0, 100) == pytest.approx(0.0295, abs=1e-3)
