"""The champion's past by bins of units: all bins together are what a look counts, and units stay in one bin."""

from datetime import timedelta

import numpy as np
import pytest

from pipelines.core.metric_types import Missing, UnitValue
from pipelines.core.statistics.effects import Sums
from resources.lake.buckets import collect
from resources.lake.champion_history import answer_history, answered_span, every_sum, kept_sums, unit_history
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow
from resources.lake.ingest import ingest_predictions
from resources.lake.measuring import COVARIATE_REFERENCE, MeasuredMetric
from resources.lake.outcomes import ingest_outcomes
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

MINUTE = timedelta(minutes=1)

METRICS = (
    MetricQuery(name="late", kind=UnitValue.ANY, source="outcomes.late"),
    MetricQuery(name="paid", kind=UnitValue.AMOUNT, source="outcomes.paid", missing=Missing.EXCLUDE),
    MetricQuery(name="per", kind=UnitValue.RATIO, source="outcomes.paid", denominator="outcomes.late"),
    MetricQuery(
        name="cuped",
        kind=UnitValue.AMOUNT,
        source="outcomes.paid",
        covariate="predictions.distance",
        covariate_reference=COVARIATE_REFERENCE,
    ),
)


def query(*metrics: MetricQuery, by_request: bool = False) -> ExperimentQuery:
    return ExperimentQuery(
        champion="1",
        challenger="not 1",
        steps=(StepWindow(START, START + 60 * MINUTE, 0),),
        metrics=metrics,
        outcome_window=10 * MINUTE,
        watermark=START + 120 * MINUTE,
        by_request=by_request,
        bucket=10 * MINUTE,
    )


@pytest.fixture
def filled(lake: Lake, log: Log) -> Lake:
    """Forty units ask three times each; one in three fails at its first time."""
    lines: list[str] = []
    for unit in range(40):
        for again in range(3):
            at = MINUTE * (unit + 5 * again) + timedelta(seconds=unit)
            lines += prediction(
                f"r{unit}-{again}", unit=f"u{unit}", at=at, status=500 if unit % 3 == again == 0 else 200,
                inputs={"distance": [float(unit)], "origin": ["JFK"]},
            )  # fmt: skip
    log.segment("1", *lines)
    events = [
        {"id": str(unit), "key": f"u{unit}", "at": (START + MINUTE * (unit + 2)).isoformat(),
         "values": {"late": unit % 2, "paid": unit / 7} if unit % 5 else {"late": 0}}
        for unit in range(40)
    ]  # fmt: skip
    log.outcome_file("1", *events)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    ingest_outcomes(lake, MODEL, log.outcomes)
    return lake


def test_all_bins_together_are_the_cells_of_a_look(filled: Lake) -> None:
    asked = query(*METRICS)
    found = unit_history(filled, MODEL, asked, [MeasuredMetric(None, None)] * 4, bins=16)
    collected = collect(filled, MODEL, asked)
    assert found.units == collected.coverage.units == 40
    assert len(np.unique(found.bins)) > 8
    for i, metric in enumerate(METRICS):
        known = found.known[i]
        assert known is not None
        shift = known.value if metric.kind is UnitValue.AMOUNT else 0.0
        for bucket in np.unique(found.buckets):
            (cell,) = [
                c
                for c in collected.cells
                if c.metric == metric.name and c.bucket == START.timestamp() + 600 * bucket
            ]
            kept = found.sums[i][found.buckets == bucket].sum(axis=0)
            ours = Sums(*every_sum(metric, kept))
            n, sy = cell.champion.n, cell.champion.sy
            assert (ours.n, ours.sd, ours.sdd) == (n, cell.champion.sd, cell.champion.sdd)
            assert ours.sy == pytest.approx(sy - shift * n)
            assert ours.syy == pytest.approx(cell.champion.syy - 2 * shift * sy + shift**2 * n)
            assert kept[kept_sums(metric).index("lost")] == cell.champion_lost
    spread = np.sum(found.sums[3][:, kept_sums(METRICS[3]).index("sx")])
    assert spread == pytest.approx(0.0, abs=1e-6), "covariates are summed less their mean"


def test_a_units_first_answer_since_a_start_is_told_apart_and_close_up_answers_add_up(filled: Lake) -> None:
    errors = MetricQuery(name="errors", kind=UnitValue.ANY, source="serving.errors", window=timedelta(0))
    found = answer_history(filled, MODEL, query(errors), bins=16, starts=[0.0, 600.0], closely=600.0)
    every, first, later = found.counts.sum(axis=0)
    assert every.tolist() == [120.0, 14.0]
    assert first.tolist() == [40.0, 14.0]
    assert later.tolist() == [40.0, 10.0], "who failed before that has come back without an error"
    for number, close in enumerate(found.close):
        here = found.counts[found.buckets == number][:, [0, 1 + number]]
        assert close.counts.sum(axis=0).tolist() == here.sum(axis=0).tolist()
    whole = query(errors, by_request=True)
    requests = answer_history(filled, MODEL, whole, bins=16, starts=[0.0, 600.0], closely=600.0)
    assert requests.counts.sum(axis=0).tolist() == [[120.0, 14.0]] * 2, "each request is its own first"


def test_requests_of_one_caller_share_a_bin_and_a_version_is_drawn_for_the_first(filled: Lake) -> None:
    found = unit_history(
        filled, MODEL, query(METRICS[0], by_request=True), [MeasuredMetric(None, None)], bins=1000
    )
    assert found.counted[:, 2:].sum(axis=0).tolist() == [120.0, 40.0]
    assert len(np.unique(found.counted[:, 0])) <= 40


def test_the_span_counts_what_is_whose(filled: Lake) -> None:
    span = answered_span(filled, MODEL, "1", start=START, until=START + 60 * MINUTE)
    assert (span.first, span.answers, span.without_unit, span.by_others) == (START, 120, 0, 0)
    nothing = answered_span(filled, MODEL, "2", start=START, until=START + 60 * MINUTE)
    assert (nothing.first, nothing.answers) == (None, 0)
