"""Where a metric's values come from, as SQL over the lake's tables."""

from collections.abc import Iterable

from pipelines.errors import LakeError
from resources.lake.experiment import ExperimentQuery, MetricQuery
from resources.lake.names import identifier
from resources.lake.schema import ANSWERED, Fields
from resources.signature import SQL_COUNTS

REFUSED = "refused"
"""A column beside those of `predictions`: whether every attempt at the request failed, so that it was the request's."""
EARLIER = "earlier"
"""A column beside those of `predictions`: whether the call was asked again, so that its caller got another record."""
_PLAIN = ("latency_ms", "status")


def outcome(source: str) -> str | None:
    """The metric's name in `outcomes`, or None where `source` is something else."""
    prefix, _, name = source.partition(".")
    return name if prefix == "outcomes" and name else None


def row_value(metric: MetricQuery, source: str, columns: tuple[Fields, Fields]) -> str:
    """SQL for the value in one row of `predictions`, a DOUBLE. Raises `LakeError` for what is not there.

    What belongs to the whole answer is taken once, from row 0 of a batch.
    """
    if source == "serving.errors":
        return _once(f"NOT ({ANSWERED} OR {REFUSED})")
    if source == "serving.over_slo" and metric.slo_ms is not None:
        return _once(f"latency_ms > {float(metric.slo_ms)!r}")
    prefix, _, name = source.partition(".")
    if prefix == "predictions" and name in _PLAIN:
        return _once(name)
    found = meant(name, columns) if prefix == "predictions" else []
    if len(found) != 1:
        raise LakeError(f"metric {metric.name!r}: source {source!r} {_allowed(found, columns)}")
    struct, field, kind = found[0]
    if kind not in SQL_COUNTS:
        raise LakeError(f"metric {metric.name!r}: {struct}.{field} is {kind}, must be a number or a boolean")
    return f"(CASE WHEN NOT {EARLIER} THEN {struct}.{identifier(field)}::DOUBLE END)"


def with_attempts(rows: str, metrics: Iterable[MetricQuery]) -> str:
    """The rows, with the columns `REFUSED` and `EARLIER` where a metric needs them."""
    read = [s for metric in metrics for s in (metric.source, metric.denominator, metric.covariate) if s]
    added = ""
    if "serving.errors" in read:
        added += f", request_id IN ({_refused(rows)}) AS {REFUSED}"
    if any(source.startswith("predictions.") for source in read):
        added += f", (request_id, coalesce(revision, ''), requested_at) IN ({_earlier(rows)}) AS {EARLIER}"
    return f"(SELECT *{added} FROM {rows})" if added else rows


def _refused(rows: str) -> str:
    """Requests that were the fault: a failure is tried again, on the champion's side, so two records of failures are all
    there is of such a request. One record alone says nothing of the other attempt, and stays an error.
    """
    return f"""SELECT request_id FROM {rows} WHERE "row" = 0 GROUP BY request_id
        HAVING count(*) > 1 AND NOT bool_or({ANSWERED})"""


def _earlier(rows: str) -> str:
    """Attempts before the last: what failed, or had not answered in time and may have answered late all the same."""
    return f"""SELECT request_id, coalesce(revision, ''), requested_at FROM {rows} WHERE "row" = 0
        QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY requested_at DESC, revision DESC) > 1"""


def outcome_names(query: ExperimentQuery) -> list[str]:
    """The outcome metrics that `query` reads."""
    sources = [source for metric in query.metrics for source in (metric.source, metric.denominator) if source]
    return sorted({name for name in map(outcome, sources) if name is not None})


def _once(expression: str) -> str:
    return f'(CASE WHEN "row" = 0 THEN ({expression})::DOUBLE END)'


def meant(name: str, columns: tuple[Fields, Fields]) -> list[tuple[str, str, str]]:
    """(struct, field, type) of every field that `predictions.<name>` can mean; as in DuckDB, case does not count."""
    return [
        (struct, field, kind)
        for struct, held in zip(("features", "outputs"), columns, strict=True)
        for field, kind in held.items()
        if name.lower() in (field.lower(), f"{struct}.{field}".lower())
    ]


def _allowed(found: list[tuple[str, str, str]], columns: tuple[Fields, Fields]) -> str:
    if found:
        return "is both: write " + " or ".join(f"predictions.{struct}.{field}" for struct, field, _ in found)
    names = [*columns[0], *columns[1], *_PLAIN]
    return (
        "is not there; allowed: serving.errors, serving.over_slo, outcomes.<metric>, predictions.<column> with"
        f" one of {', '.join(names)}"
    )
