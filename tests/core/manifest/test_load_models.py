"""What `load_models` reads, and that one broken model never hides another."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import load_models

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_good_folder_becomes_a_model(folder: Path):
    catalogue = load_models(folder)
    assert catalogue.errors == ()
    [model] = catalogue.models
    assert model.name == "churn"
    assert model.rollout.steps == ("shadow", 10, 50, 100)
    assert model.rollout.experiment.primary.mde == pytest.approx(0.05)
    assert model.rollout.guardrails[1].slo == timedelta(milliseconds=250)
    assert model.service["spec"]["predictor"]["minReplicas"] == 2


@pytest.mark.parametrize(
    "source",
    [
        "predictions.score",
        "predictions.outputs.score",
        "predictions.features.a b",
        "predictions.it's 100 %",
        "predictions.0",
    ],
)
def test_a_column_can_be_named_whatever_it_is_called(folder: Path, source: str):
    path = folder / "churn" / "rollout.yaml"
    said = source.replace("'", "''")
    path.write_text(path.read_text().replace("source: outcomes.revenue", f"source: '{said}'"))
    catalogue = load_models(folder)
    assert catalogue.errors == ()
    assert catalogue.models[0].rollout.experiment.primary.source == source


@pytest.mark.parametrize("source", ["predictions.", "predictions", "outcomes.a b", '"predictions.a\\tb"'])
def test_a_source_that_names_no_column_is_told(folder: Path, source: str):
    path = folder / "churn" / "rollout.yaml"
    path.write_text(path.read_text().replace("source: outcomes.revenue", f"source: {source}"))
    [error] = load_models(folder).errors
    assert "experiment.primary.source" in str(error)
    assert "outcomes.<metric> or predictions.<column>" in str(error)


def test_the_shipped_models_are_good():
    catalogue = load_models(REPOSITORY / "serving_manifests")
    assert catalogue.errors == ()
    assert "flight-delay" in [model.name for model in catalogue.models]


def test_folders_without_a_rollout_are_not_models(folder: Path):
    (folder / "platform").mkdir()
    (folder / "platform" / "namespace.yaml").write_text("kind: Namespace\n")
    assert [model.name for model in load_models(folder).models] == ["churn"]


def test_a_broken_model_leaves_the_others(folder: Path):
    shutil.copytree(folder / "churn", folder / "fraud")
    catalogue = load_models(folder)
    assert [model.name for model in catalogue.models] == ["churn"]
    assert {Path(error.args[0].split(":")[0]).parent.name for error in catalogue.errors} == {"fraud"}


def test_the_digest_changes_with_either_file(folder: Path):
    seen = {load_models(folder).model("churn").digest}
    for name in ("rollout.yaml", "inferenceservice.yaml"):
        path = folder / "churn" / name
        path.write_text(path.read_text() + "# note\n")
        seen.add(load_models(folder).model("churn").digest)
    assert len(seen) == 3


def test_a_file_is_read_anew_when_its_bytes_have_changed(folder: Path):
    file = folder / "churn" / "rollout.yaml"
    found, text, read = file.stat(), file.read_text(), []
    for mde in ("5%", "7%", "5%"):
        file.write_text(text.replace("mde: 5%", f"mde: {mde}"))
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        read.append(load_models(folder).models[0].digest)
    assert read[0] == read[2] != read[1]


def test_a_missing_folder_is_an_error_not_an_exception(tmp_path: Path):
    catalogue = load_models(tmp_path / "nowhere")
    assert catalogue.models == ()
    assert "nowhere" in str(catalogue.errors[0])


def test_asking_for_an_unknown_model_names_the_known_ones(folder: Path):
    with pytest.raises(ManifestError, match=r"no model 'chrun'.*churn"):
        load_models(folder).model("chrun")
