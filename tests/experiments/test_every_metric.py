"""Whatever passes the manifest check can be looked at: no look is unknown because of the manifest."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.core.manifest.load import Model, load_model
from pipelines.core.vocabulary import Verdict
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


def every_metric() -> list[dict[str, Any]]:
    """Each type with each source and each extra, whether they go together or not."""
    found: list[dict[str, Any]] = []
    for kind, source, extra in product(("proportion", "mean", "ratio", "retention"), SOURCES, EXTRAS):
        more: dict[str, Any] = {"slo": "250ms"} if source == "serving.over_slo" else {}
        more |= {"denominator": "predictions.score"} if kind == "ratio" else {}
        more |= {"retention": "20s"} if kind == "retention" else {}
        name = f"m{len(found)}"
        found.append({"name": name, "type": kind, "source": source, "margin": 0.1} | more | extra)
    return found


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
