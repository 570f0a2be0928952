"""Slices in a whole rollout: harm in a part of the traffic is found there, and the part is named."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert

from pipelines.core.errors import NotMeasured
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.metric_types import UnitValue
from pipelines.core.rollout.events import End
from pipelines.core.statistics.effects import Sums
from pipelines.core.statistics.slices import PART, Slice
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.experiments.look_inputs import look_spec
from pipelines.experiments.looks import STORED, past_looks, slice_columns_in
from pipelines.experiments.registering import RegisteredConstants, guardrail_spec
from pipelines.experiments.slicing import PackedSums, StoredBatch, packed, unpacked
from pipelines.reports.report import Reports, rollout_story, write_report
from pipelines.rollouts.harm_budget import harm_boundary, harm_budget
from resources.lake.slices import SliceBatch
from resources.lake.sums import added_up, stacked
from resources.ledger.database import COUNTER_BUCKETS
from tests.reports.test_report import Reader, reports_at
from tests.support.rollouts import MODEL
from tests.support.simulated_rollout import MINUTE, Simulation, ab_manifest

AMOUNTS = ("0.0", "1.0", "2.0", "3.0", "4.0")


@dataclass
class Traffic:
    """Units of five kinds, told apart by the request's `amount`; at the challenger one kind is dear."""

    dear: float | None = 3.0
    by: float = 1.0
    kind: float = 0.0

    def amount(self, random: np.random.Generator) -> float:
        self.kind = float(random.integers(5))
        return self.kind

    def cost(self, random: np.random.Generator, is_challenger: bool) -> float:
        harmed = is_challenger and self.kind == self.dear
        return float(random.gamma(4.0, 0.5)) + self.by * harmed


def manifest(slices: list[str], **changes: Any) -> RolloutManifest:
    asked = ab_manifest(steps=[50, 100], guardrails=[])
    experiment = asked.experiment.model_dump() | {"slices": slices, "max_duration": timedelta(minutes=40)}
    return asked.model_validate(asked.model_dump() | {"experiment": experiment} | changes)


def simulation(folder: Path, slices: list[str], traffic: Traffic, **changes: Any) -> Simulation:
    made = manifest(slices, **changes)
    return Simulation(folder, manifest=made, cost=traffic.cost, amount=traffic.amount, per_minute=3000)


def reports(played: Simulation, folder: Path) -> Reports:
    """That know the simulated model's manifest, and read its lake."""
    made = reports_at(folder)
    return replace(
        made,
        ledger=played.rig.ledger,
        lake=played.lake,
        catalogue=replace(made.catalogue, models=(played.model,)),
    )


def test_harm_in_one_slice_is_rolled_back_and_named_with_examples_on_the_page(tmp_path: Path) -> None:
    played = simulation(tmp_path, ["features.amount"], Traffic())
    played.history(300)
    rollout_id = played.start()
    state = played.until_the_end(rollout_id, minutes=6)
    assert state.end is End.ROLLED_BACK
    assert "It is where amount is 3.0 (" in state.end_reason
    assert "at the champion, evidence " in state.end_reason
    told = played.evidence["slices"]
    assert (told.verdict, told.on_fail) == (Verdict.PASS, OnFail.WARN)
    assert told.reason == "metrics are compared by amount (5 values) as well"
    looks = past_looks(played.rig.ledger, rollout_id)
    (column,) = slice_columns_in(looks)
    assert column.name == "amount" and sorted(column.values) == sorted(AMOUNTS)
    assert [bool(look.slice_columns) for look in looks] == [True, *[False] * (len(looks) - 1)]

    shown = reports(played, tmp_path)
    story = rollout_story(shown, rollout_id)
    assert story.slices is not None and story.slices[0].where == Slice("amount", "3.0")
    examples = story.examples.found
    assert len(examples) == 5 and {each.features for each in examples} == {'{"amount":3.0}'}
    assert [each.value for each in examples] == sorted((each.value for each in examples), reverse=True)
    text = Reader(write_report(shown, rollout_id).read_text()).text
    assert "The most evidence of harm in one slice of the traffic: cost, where amount is 3.0." in text
    assert examples[0].request_id in text and '{"score":0.5}' in text

    gone = rollout_story(replace(shown, lake=replace_lake(tmp_path)), rollout_id)
    assert gone.examples.found == () and "could not be read: the lake holds nothing" in gone.examples.problem
    assert gone.slices == story.slices


def replace_lake(folder: Path) -> Any:
    """A lake that has lost what the rollout was measured on."""
    (folder / "other").mkdir()
    return Simulation(folder / "other").lake


def test_a_column_that_nobody_sends_only_warns_and_the_others_are_compared(
    tmp_path: Path,
) -> None:
    """Two columns are asked for, and one of them is mistyped."""
    played = simulation(tmp_path, ["amount", "amuont"], Traffic(dear=None))
    played.per_minute = 1000
    rollout_id = played.start()
    state = played.until_the_end(rollout_id, minutes=2)
    assert state.end is not End.ROLLED_BACK
    told = played.evidence["slices"]
    assert (told.verdict, told.on_fail) == (Verdict.FAIL, OnFail.WARN)
    assert "metrics are compared by amount (5 values) as well: 'amuont' is no input" in told.reason
    assert told.reason.endswith("the lake holds amount")
    (cost,) = played.looks[-1].look.metrics
    assert cost.slices is not None and not cost.slices.is_crossed


def test_slices_are_set_when_a_rollout_begins_and_an_old_look_is_read_as_one_without(tmp_path: Path) -> None:
    played = simulation(tmp_path, [], Traffic(dear=None))
    played.per_minute = 400
    rollout_id = played.start()
    played.minute(rollout_id)
    played.minute(rollout_id)
    assert "slices" not in played.evidence
    (*_, look) = past_looks(played.rig.ledger, rollout_id)
    assert (look.slice_columns, look.slices, look.look.metrics[0].slices) == ((), None, None)
    stored = json.loads(STORED.dump_json(look))
    del stored["slice_columns"], stored["slices"]
    for metric, spec in zip(stored["look"]["metrics"], stored["spec"]["metrics"], strict=True):
        del metric["slices"], spec["sliced_part"]
    assert STORED.validate_python(stored) == look
    played.model = replace(played.model, rollout=manifest(["amount"]))
    played.minute(rollout_id)
    assert played.looks[-1].slices is None
    assert "slices are set once" in played.evidence["slices"].reason
    assert played.evidence["slices"].on_fail is OnFail.WARN


ERRORS = {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "5pp"}


def by_request(**changes: Any) -> RolloutManifest:
    asked = manifest(["amount"], guardrails=[ERRORS])
    experiment = asked.experiment.model_copy(update={"unit": "request"})
    return asked.model_copy(update={"experiment": experiment, **changes})


@pytest.mark.parametrize("unit", ["request", "customer"])
def test_the_live_counters_and_the_slices_of_what_they_count_share_one_budget(unit: str) -> None:
    asked = by_request()
    asked = asked.model_copy(update={"experiment": asked.experiment.model_copy(update={"unit": unit})})
    whole, live = harm_budget(asked), harm_budget(asked, live=True)
    assert (live.alpha, live.tests) == (pytest.approx((1 - PART) * whole.alpha), whole.tests)
    assert harm_boundary(asked) == live.log_boundary > whole.log_boundary
    without = asked.model_copy(update={"experiment": asked.experiment.model_copy(update={"slices": ()})})
    assert harm_budget(without, live=True) == harm_budget(without)
    registered = [RegisteredConstants(spec=guardrail_spec(asked.guardrails[0], asked.experiment))]
    (errors,) = look_spec(asked, {}, registered, is_final=False).metrics
    assert (errors.part, errors.sliced_part) == (None, "after 0ms")


def test_errors_in_one_slice_that_the_live_counters_cannot_tell_apart_are_rolled_back_at_a_look(
    tmp_path: Path,
) -> None:
    """One kind in five is answered by none of the challenger's; live, its answers are counted as half as many."""
    traffic = Traffic(dear=None)
    made = by_request(bake=timedelta(0))
    played = Simulation(tmp_path, manifest=made, cost=traffic.cost, amount=traffic.amount, per_minute=800)
    played.history(300)
    rollout_id = played.start()
    broken(played, fails=lambda kind: kind == 2.0)
    state = played.until_the_end(rollout_id, minutes=3)
    assert state.end is End.ROLLED_BACK and state.end_reason.startswith("errors: ")
    assert "By slices, tested at the looks: evidence of harm" in state.end_reason
    assert "where amount is 2.0" in state.end_reason
    errors = played.looks[-1].look.metrics[-1]
    assert errors.harm.boundary == float("inf") and errors.slices is not None and errors.slices.is_crossed


def broken(played: Simulation, fails: Callable[[float], bool]) -> None:
    """The challenger's answers to some kinds fail in the log; the gateway's counters tell of a few errors on both sides."""
    answered = played.traffic

    def traffic(begin: Any, end: Any, units: int, **options: Any) -> None:
        answered(begin, end, units, **options)
        with played.lake.connect() as connection:
            connection.execute(
                f"UPDATE lake.\"{MODEL}\".predictions SET status = 500 WHERE version = '2'"
                " AND list_contains($kinds, features.amount)",
                {"kinds": [float(kind) for kind in range(5) if fails(kind)]},
            )
        bucket = counted(played, end)
        with played.rig.ledger.database.writing("buckets") as writing:
            writing.execute(insert(COUNTER_BUCKETS), [bucket])

    played.traffic = traffic  # type: ignore[method-assign]


def counted(played: Simulation, at: Any) -> dict[str, Any]:
    (row, *_) = played.rig.ledger.rollouts()
    state = played.rig.controller().state(row.rollout_id)
    return {
        "rollout_id": row.rollout_id,
        "metric": "errors",
        "step": state.exposure,
        "epoch": "e",
        "at": at - MINUTE / 2,
        "canary_trials": 400.0,
        "canary_events": 2.0,
        "champion_trials": 400.0,
        "champion_events": 2.0,
    }


def test_stored_sums_of_slices_come_back_to_the_last_bit_and_take_little_room() -> None:
    rng = np.random.default_rng(1)
    kinds = {f"m{k}": kind for k, kind in enumerate([*UnitValue] * 5)}
    sums: dict[str, Any] = {}
    for name, kind in kinds.items():
        made = np.zeros((2, 52, 2, 10))
        made[..., 0] = rng.poisson(30, made.shape[:-1])
        made[..., 1:6] = rng.poisson(3, made[..., 1:6].shape)
        if kind in (UnitValue.AMOUNT, UnitValue.RATIO):
            made[..., 1:3] = rng.lognormal(0, 1, made[..., 1:3].shape)
        sums[name] = stacked({field: made[..., Sums._fields.index(field)] for field in added_up(kind)})
    batch = SliceBatch((0, 3), sums)
    stored = packed(batch, kinds)
    again = unpacked(stored, 52)
    assert again.steps == batch.steps
    assert all((again.sums[name] == sums[name]).all() for name in sums)
    room, whole = (sum(len(each.packed) for each in stored.sums), sum(made.nbytes for made in sums.values()))
    assert room < whole / 4, (room, whole)
    empty = packed(SliceBatch((0,), {"m0": np.zeros((1, 52, 2, 10))}), kinds)
    assert empty.sums == ()
    with pytest.raises(NotMeasured, match="m0: stored sums of slices cannot be read"):
        unpacked(stored, 51)
    with pytest.raises(NotMeasured, match="cannot be read"):
        unpacked(StoredBatch((0,), (PackedSums("m0", UnitValue.ANY, "AAAA"),)), 52)
