"""The lake: what was predicted and what came of it, in DuckDB with DuckLake. See docs/lake.md."""

from resources.lake.buckets import (
    Collected,
    Coverage,
    StepUnits,
    cells,
    collect,
    coverage,
    crossovers,
    units_per_step,
)
from resources.lake.connection import Lake
from resources.lake.counts import Counts, counts
from resources.lake.experiment import ExperimentQuery, MetricKind, MetricQuery, Missing, StepWindow
from resources.lake.ingest import IngestReport, ingest_predictions
from resources.lake.maintenance import Maintenance, expire_unpaired, maintain, remove_loaded
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.schema import feature_columns, output_columns
from resources.lake.windows import window, window_counts
from resources.signature import Column, ModelSchema

__all__ = [
    "Collected",
    "Column",
    "Counts",
    "Coverage",
    "ExperimentQuery",
    "IngestReport",
    "Lake",
    "Maintenance",
    "MetricKind",
    "MetricQuery",
    "Missing",
    "ModelSchema",
    "OutcomeReport",
    "StepUnits",
    "StepWindow",
    "cells",
    "collect",
    "counts",
    "coverage",
    "crossovers",
    "expire_unpaired",
    "feature_columns",
    "ingest_outcomes",
    "ingest_predictions",
    "maintain",
    "output_columns",
    "remove_loaded",
    "units_per_step",
    "window",
    "window_counts",
]
