"""Reports as evidence, and as pictures."""

import base64
import subprocess
import sys
from datetime import timedelta

import pytest

from pipelines.core.manifest.model import Check, DataChecks, Drift
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.monitoring.data_checks import check_window
from pipelines.monitoring.drift import compare
from pipelines.monitoring.evidence import from_data_checks, from_drift
from resources.checks.evidently import Comparison
from resources.pictures import EffectAt, PowerAt, drift_scores, effect_over_time, power_curve

pytestmark = [
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated function 'Dependency':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use of deprecated class 'DependencyKwarg':DeprecationWarning"),
]

HOURS = timedelta(hours=2)

LOW = Check(column="features.hour", type="between", max=-1, on_fail=OnFail.HOLD)

LOW_ROLL_BACK = LOW.model_copy(update={"on_fail": OnFail.ROLL_BACK})

FINE = Check(column="features.hour", type="not_null", on_fail=OnFail.ROLL_BACK)

MISSING = Check(column="features.gone", type="not_null")


@pytest.mark.parametrize(
    ("checks", "rows", "verdict", "on_fail", "pending"),
    [
        ((FINE,), 300, Verdict.PASS, OnFail.HOLD, False),
        ((FINE, LOW), 300, Verdict.FAIL, OnFail.HOLD, False),
        ((LOW, LOW_ROLL_BACK), 300, Verdict.FAIL, OnFail.ROLL_BACK, False),
        ((MISSING, LOW), 300, Verdict.FAIL, OnFail.HOLD, False),
        ((FINE, MISSING), 300, Verdict.UNKNOWN, OnFail.HOLD, False),
        ((FINE,), 10, Verdict.UNKNOWN, OnFail.HOLD, True),
    ],
)
def test_data_checks_ask_for_the_gravest_failed_action(
    window, during, tmp_path, checks, rows, verdict, on_fail, pending
):
    config = DataChecks(checks=checks)
    report = check_window(window(rows, 1), config, model="m", docs_dir=tmp_path, **during)
    evidence = from_data_checks(report, at=during["window_end"], valid_for=HOURS)
    assert (evidence.name, evidence.verdict, evidence.on_fail, evidence.pending) == (
        "data_quality", verdict, on_fail, pending,
    )  # fmt: skip
    assert evidence.valid_for == HOURS
    assert evidence.values["rows"] == rows


@pytest.mark.parametrize(
    ("comparison", "name"),
    [(Comparison.CANARY_VS_STABLE, "drift_canary"), (Comparison.CURRENT_VS_REFERENCE, "drift_reference")],
)
def test_drift_asks_for_what_the_manifest_says(window, during, comparison, name):
    config = Drift(min_rows=200, share=0.2, on_fail=OnFail.ROLL_BACK)
    report = compare(
        window(400, 1), window(400, 2, shift=2), config, model="m", title="t", comparison=comparison, **during
    )
    evidence = from_drift(report, config, at=during["window_end"], valid_for=HOURS)
    assert (evidence.name, evidence.source) == (name, "drift")
    assert (evidence.verdict, evidence.on_fail) == (Verdict.FAIL, OnFail.ROLL_BACK)
    assert evidence.values["worst_column"] == "features.distance"
    assert (evidence.values["drifted"], evidence.values["compared"]) == (1, 4)


def test_pictures_are_png_in_markdown_and_say_in_words_what_they_show(window, during):
    report = compare(
        window(300, 1), window(300, 2, shift=2), Drift(min_rows=100), model="m", title="t",
        comparison=Comparison.CANARY_VS_STABLE, **during,
    )  # fmt: skip
    at = during["window_start"]
    looks = [EffectAt(at + n * HOURS, 0.1, 0.1 - 1 / n, 0.1 + 1 / n) for n in range(1, 5)]
    pictures = {
        "features.distance": drift_scores(report),
        "cost: +0.1 [-0.15, +0.35], margin -2": effect_over_time(
            looks, margin=2, metric="cost", better="higher"
        ),
        "80% power at 500 units": power_curve(
            [PowerAt(10, 0.1), PowerAt(900, 0.9)], target=0.8, planned=500, metric="m"
        ),
    }
    for words, picture in pictures.items():
        assert words in picture.alt
        encoded = picture.markdown.split("base64,")[1].rstrip(")")
        assert base64.b64decode(encoded).startswith(b"\x89PNG")
        assert len(picture.markdown) < 60_000


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="no looks"):
        effect_over_time([], margin=1, metric="m")


def test_importing_the_evaluators_does_not_import_the_libraries():
    modules = "data_checks, drift, evidence, window_reports"
    heavy = "{'evidently', 'great_expectations', 'matplotlib', 'plotly', 'scipy'}"
    code = f"import sys; import resources.pictures; from pipelines.monitoring import {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
