"""Whatever passes the manifest check can be looked at: no look is unknown because of the manifest."""

import dataclasses
import json
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.core.manifest.load import Model, load_model
from pipelines.core.metric_types import TYPES, MetricType
from pipelines.core.vocabulary import Verdict
from pipelines.experiments.history import champion_history
from tests.support.memory_systems import SERVICE
from tests.support.rollouts import MODEL
from tests.support.simulated_rollout import Simulation

SOURCES = (
    "outcomes.cost", "predictions.amount", "predictions.score", "predictions.latency_ms", "serving.errors",
    "serving.over_slo",
)  # fmt: skip

EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"winsorise": 0.99},
    {"cap": 3},
    {"covariate": "predictions.amount"},
    {"covariate": "outcomes.cost"},
    {"covariate": "predictions.latency_ms"},
    {"method": "group_sequential"},
)


NEEDED = {"denominator": "predictions.amount", "retention": "20s"}

FURTHER = [dataclasses.replace(each, name=f"further_{each.name}") for each in TYPES.values()]
"""Types that are measured and tested as the known ones are, each under a name that nothing else knows."""


def every_metric() -> list[dict[str, Any]]:
    """Each type with each source and each extra, whether they go together or not."""
    found: list[dict[str, Any]] = []
    for kind, source, extra in product(TYPES.values(), SOURCES, EXTRAS):
        more: dict[str, Any] = {"slo": "250ms"} if source == "serving.over_slo" else {}
        found.append(guardrail(f"m{len(found)}", kind, source=source) | more | extra)
    return found


def guardrail(name: str, kind: MetricType, *, source: str = "predictions.score") -> dict[str, Any]:
    """As it is written, with the keys that its type needs."""
    needed = {key: NEEDED[key] for key in kind.needs}
    return {"name": name, "type": kind.name, "source": source, "margin": 0.1, **needed}


def written(folder: Path, guardrails: list[dict[str, Any]], **experiment: Any) -> Any:
    rollout = {
        "model": MODEL,
        "steps": [20, 100],
        "experiment": {
            "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%"},
            "outcome_window": "30s", "look_every": "1m", "max_duration": "20m",
        } | experiment,
        "guardrails": guardrails,
        "step": {"min_duration": "2m", "min_units": 50},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    with (folder / "rollout.yaml").open("w") as file:
        YAML().dump(rollout, file)
    (folder / "inferenceservice.yaml").write_text(SERVICE.format(name=MODEL))
    return load_model(folder)


def accepted(folder: Path, **experiment: Any) -> Model:
    """With those of the metrics that the manifest check lets pass."""
    every = every_metric()
    refused = {problem.key.split(".")[0] for problem in written(folder, every, **experiment)}
    good = [metric for i, metric in enumerate(every) if f"guardrails[{i}]" not in refused]
    assert len(good) > 30, refused
    model = written(folder, good, **experiment)
    assert isinstance(model, Model), model
    return model


@pytest.mark.parametrize(
    ("unit", "numbers"), [("request", {}), ("customer", {"alpha": 1e-6, "power": 0.999})]
)
def test_no_metric_that_passes_the_manifest_check_makes_looks_unknown(
    tmp_path: Path, unit: str, numbers: dict[str, Any]
) -> None:
    model = accepted(tmp_path / MODEL, unit=unit, **numbers)
    simulation = Simulation(tmp_path, manifest=model.rollout, per_minute=150)
    simulation.history(300)
    rollout_id = simulation.start()
    for _ in range(2):
        simulation.minute(rollout_id)
    assert simulation.looks
    stuck = [e for e in simulation.evidence.values() if e.verdict is Verdict.UNKNOWN and not e.pending]
    assert not stuck, stuck[0].reason


@pytest.mark.parametrize("kind", ["proportion", "mean"])
def test_an_outcome_that_was_never_seen_is_waited_for_in_words_and_passes_nothing(
    tmp_path: Path, kind: str
) -> None:
    """Where a missing outcome counts as 0, a mistyped name would be no worse than the champion for ever."""
    late = {"name": "late", "type": kind, "source": "outcomes.lateness", "margin": 0.1}
    model = written(tmp_path / MODEL, [late], unit="customer")
    simulation = Simulation(tmp_path, manifest=model.rollout, per_minute=150)
    simulation.history(300)
    rollout_id = simulation.start()
    simulation.minute(rollout_id)
    for name in ("late", "late.margin"):
        found = simulation.evidence[name]
        assert (found.verdict, found.pending) == (Verdict.UNKNOWN, True)
        assert found.reason == "not yet, there are no outcomes named lateness yet; so far there are cost."
    assert simulation.evidence["cost.harm"].verdict is Verdict.PASS
    first = {"id": "x", "key": "nobody", "at": simulation.clock.now.isoformat(), "values": {"lateness": 0}}
    (simulation.outcomes / "late.jsonl").write_text(json.dumps(first) + "\n")
    for _ in range(2):
        simulation.minute(rollout_id)
    assert "no outcomes named" not in simulation.evidence["late"].reason


def test_a_further_metric_type_is_one_record_and_is_refused_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the manifest to the words: what is looked at under the new name is what is looked at under the old one."""
    twins = [
        guardrail(f"{prefix}{each.name}", kind)
        for each, further in zip(TYPES.values(), FURTHER, strict=True)
        for prefix, kind in (("as_", each), ("new_", further))
    ]
    problems = written(tmp_path / MODEL, twins, unit="customer")
    known = "expected 'proportion', 'mean', 'ratio' or 'retention'"
    assert [(p.key, known in p.problem) for p in problems] == [
        (f"guardrails[{i}].type", True) for i in (1, 3, 5, 7)
    ]
    for further in FURTHER:
        monkeypatch.setitem(TYPES, further.name, further)  # type: ignore[arg-type]
    model = written(tmp_path / MODEL, twins, unit="customer")
    assert isinstance(model, Model), model
    simulation = Simulation(tmp_path, manifest=model.rollout, per_minute=300)
    simulation.history(300)
    rollout_id = simulation.start()
    for _ in range(3):
        simulation.minute(rollout_id)
    looks = {metric.name: metric for metric in simulation.looks[-1].look.metrics}
    for each in TYPES.values():
        old, new = looks.get(f"as_{each.name}"), looks.get(f"new_{each.name}")
        if old is not None:
            told = old.sentence.replace("as_", "new_", 1)
            assert new == dataclasses.replace(old, name=f"new_{each.name}", sentence=told)
            assert "at the challenger against" in told or "at every one of" in told
    assert {name for name in looks if name.startswith("new_")} == {
        f"new_{e.name.removeprefix('further_')}" for e in FURTHER
    }


def test_the_rules_of_a_further_metric_type_follow_from_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for further in FURTHER:
        monkeypatch.setitem(TYPES, further.name, further)  # type: ignore[arg-type]
    wrong = [
        guardrail("a", FURTHER[0]) | {"margin": 2, "cap": 3},
        guardrail("b", FURTHER[1], source="serving.errors"),
        guardrail("c", FURTHER[2]) | {"denominator": None},
        guardrail("d", FURTHER[3]) | {"denominator": "predictions.amount"},
    ]
    found = {p.key: p.problem for p in written(tmp_path / MODEL, wrong)}
    assert found == {
        "guardrails[0].margin": "2: expected less than 1 (100pp) for a share; percentage points are written 5pp",
        "guardrails[0].cap": "only allowed with type: mean or type: ratio or type: further_mean or type:"
        " further_ratio, not 'further_proportion'",
        "guardrails[1].type": "'further_mean': expected 'proportion' or 'further_proportion' for source: serving.errors",
        "guardrails[2].denominator": "required key is missing: type: ratio or type: further_ratio needs it",
        "guardrails[3].denominator": "only allowed with type: ratio or type: further_ratio",
        "guardrails[3].type": "'further_retention': a request cannot return; expected experiment.unit to name a unit",
    }


def test_a_horizon_longer_than_two_weeks_still_has_a_history(tmp_path: Path) -> None:
    """Of the last two weeks no unit would count yet, and nothing would be known of the champion before every rollout."""
    metrics = [
        {"name": "paid", "type": "mean", "source": "outcomes.cost", "margin": 1},
        {"name": "back", "type": "retention", "source": "predictions.score", "retention": "2d", "margin": "1pp"},
    ]  # fmt: skip
    longest = {"outcome_window": "16d", "max_duration": "26d", "look_every": "30m"}
    model = written(tmp_path / MODEL, metrics, unit="customer", **longest)
    assert isinstance(model, Model), model
    simulation = Simulation(tmp_path, manifest=model.rollout)
    now = simulation.clock.now
    simulation.traffic(now - timedelta(days=20), now - timedelta(days=19), 50, salt="", percent=0)
    known = champion_history(simulation.lake, model.rollout, "1", model.rollout.guardrails, until=now)
    assert {name: found.units for name, found in known.metrics.items()} == {"paid": 50, "back": 50}


def test_one_number_too_large_to_be_squared_makes_no_look_unknown(tmp_path: Path) -> None:
    """Whoever asks can send one, and an outcome may be mistyped: a healthy version must not be ended for it."""
    metrics = [
        {"name": "score", "type": "mean", "source": "predictions.score", "margin": 1},
        {"name": "asked", "type": "ratio", "source": "predictions.score", "denominator": "predictions.amount",
         "margin": 1},
        {"name": "plain", "type": "mean", "source": "predictions.score", "covariate": "predictions.amount",
         "margin": 1},
    ]  # fmt: skip
    model = written(tmp_path / MODEL, metrics, unit="customer")
    assert isinstance(model, Model), model
    simulation = Simulation(tmp_path, manifest=model.rollout, per_minute=150)
    simulation.amount = lambda random: 1e200 if random.random() < 0.05 else 1.0
    simulation.cost = lambda random, is_challenger: 1e200 if random.random() < 0.05 else 1.0
    simulation.history(150)
    simulation.minute(simulation.start())
    stuck = [e for e in simulation.evidence.values() if e.verdict is Verdict.UNKNOWN and not e.pending]
    assert simulation.looks and not stuck, stuck[0].reason
