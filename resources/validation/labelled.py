"""Logged requests that the champion answered and whose outcome is known."""

import base64
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.manifest.model import RolloutManifest
from resources.lake.connection import Lake
from resources.lake.names import identifier, table
from resources.lake.schema import ANSWERED, KEY
from resources.signature import ModelSchema

_ONE_REQUEST = "QUALIFY min(request_id) OVER (PARTITION BY key) = max(request_id) OVER (PARTITION BY key)"
_SKEW = dt.timedelta(seconds=5)
"""How far the clocks of whoever predicts and whoever observes may disagree."""


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Most recent first; `features[i]`, `scores[i]` and `labels[i]` belong together."""

    features: Sequence[Sequence[Any]]
    """In the order of the challenger's inputs."""
    scores: Sequence[float]
    """What the champion answered."""
    labels: Sequence[float]


def labelled_rows(
    lake: Lake, manifest: RolloutManifest, champion: str, *, inputs: ModelSchema, score: str
) -> LabelledRows:
    """At most `validation.rows` of the champion's live answers with a finite score and an outcome.

    The label is the latest value of `validation.label` seen within the outcome window of the request: a
    correction replaces what it corrects. Requests of several rows are left out, since an outcome does not say
    which row it is about; so are requests that their caller gave one id. Raises LakeError.
    """
    key, unique = (KEY, _ONE_REQUEST) if manifest.experiment.unit == "request" else ("unit_id", "")
    values = [f"any_value(p.features.{identifier(column.name)})" for column in inputs.inputs]
    output = f"any_value(p.outputs.{identifier(score)})::DOUBLE"
    query = f"""
        SELECT {output} AS score, arg_max(o.value, o."at") AS label, {", ".join(values)}
        FROM (SELECT *, {key} AS key FROM {table(manifest.model, "predictions")} {unique}) p
        JOIN {table(manifest.model, "outcomes")} o USING (key)
        WHERE p.version = $champion AND p.assignment = 'weighted' AND p.{ANSWERED} AND o.metric = $label
            AND o."at" BETWEEN p.requested_at - $skew AND p.requested_at + $window
        GROUP BY p.request_id, p.revision
        HAVING count(DISTINCT p."row") = 1 AND isfinite(score)
        ORDER BY max(p.requested_at) DESC, p.request_id LIMIT $rows"""
    parameters = {
        "champion": champion,
        "label": manifest.validation.label,
        "skew": _SKEW,
        "window": manifest.experiment.outcome_window,
        "rows": manifest.validation.rows,
    }
    with lake.connect() as connection:
        found = connection.execute(query, parameters).fetchall()
    return LabelledRows(
        features=[[_plain(value) for value in row[2:]] for row in found],
        scores=[row[0] for row in found],
        labels=[row[1] for row in found],
    )


def _plain(value: Any) -> Any:
    """Times and bytes travel as text in JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, dt.date) else value
