"""An experiment's additive sufficient statistics: all that an analysis ever reads of the raw rows."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from pipelines.core.statistics.effects import Cell, Sums
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery
from resources.lake.schema import Fields, fields
from resources.lake.slices import SliceBatch, sum_by_slice
from resources.lake.sums import added_up, terms, with_the_rest
from resources.lake.unit_values import exposures, make_cohort, make_unit_values


class LoggedUnits(NamedTuple):
    """Distinct units first exposed at one step, crossovers included: what a sample ratio is tested on."""

    step: int
    champion: int
    challenger: int
    champion_drawn: int
    """Where a unit is a request: the first one of each caller's unit id, and all those without one. The gateway sends a
    unit id where it sent it before, so that the others say nothing of the split."""
    challenger_drawn: int


class Coverage(NamedTuple):
    """What became of the experiment's units; whatever is left out of the statistics is counted here."""

    units: int
    crossovers: int
    """Seen on both versions at one step, or back on the champion: left out of every metric."""
    moved: int
    """Went from champion to challenger as the share grew: kept where they were first."""
    rows_without_unit: int
    """Answered without the unit id: counted nowhere."""


class Collected(NamedTuple):
    """What one reading of the lake gives to a look."""

    cells: list[Cell]
    units: list[LoggedUnits]
    coverage: Coverage
    batch: SliceBatch | None = None
    """Where slices are asked for: what became final, slice by slice."""


def collect(lake: Lake, model: str, query: ExperimentQuery) -> Collected:
    """Of one reading, the cohort being made once.

    One cell per metric, step and exposure bucket, in this order; empty cells are left out. A unit counts once, in the
    bucket of its first exposure, as soon as its window has passed by the watermark; `units` has all of them, mature or
    not. Raises `LakeError` for a source that is not there.
    """
    with lake.connect() as connection:
        columns = fields(connection, model)
        make_cohort(connection, model, query)
        return Collected(
            _all_cells(connection, model, query, columns) if query.metrics else [],
            _units(connection),
            _coverage(connection, model, query),
            sum_by_slice(connection, query) if query.metrics and query.slices else None,
        )


def _all_cells(
    connection: DuckDBPyConnection, model: str, query: ExperimentQuery, columns: tuple[Fields, Fields]
) -> list[Cell]:
    make_unit_values(connection, model, query, columns)
    return cells_of_values(connection, query)


def cells_of_values(connection: DuckDBPyConnection, query: ExperimentQuery) -> list[Cell]:
    """The cells of what is in `unit_values`: one pass over it, whatever the number of metrics."""
    metrics = [(i, m) for i, m in enumerate(query.metrics) if m.name not in query.slices_alone]
    rows = _sum_up(connection, query, metrics) if metrics else []
    return [cell for i, metric in metrics for cell in _cells(i, metric, rows)]


def _units(connection: DuckDBPyConnection) -> list[LoggedUnits]:
    rows: list[Any] = connection.execute(
        f"""WITH drawn AS (
                SELECT step, challenger FROM cohort WHERE caller IS NULL
                UNION ALL
                SELECT arg_min(step, exposed), arg_min(challenger, exposed) FROM cohort
                WHERE caller IS NOT NULL GROUP BY caller),
            counted AS (SELECT step, {_SIDES} FROM cohort GROUP BY step)
        SELECT counted.*, coalesce(d.champion, 0), coalesce(d.challenger, 0)
        FROM counted LEFT JOIN (SELECT step, {_SIDES} FROM drawn GROUP BY step) d USING (step) ORDER BY step"""
    ).fetchall()
    return [LoggedUnits(*row) for row in rows]


_SIDES = "count(*) FILTER (NOT challenger) AS champion, count(*) FILTER (challenger) AS challenger"


def _coverage(connection: DuckDBPyConnection, model: str, query: ExperimentQuery) -> Coverage:
    seen = exposures(model, query)
    row: Any = connection.execute(
        "SELECT count(*), count(*) FILTER (crossover), count(*) FILTER (moved AND NOT crossover) FROM cohort"
    ).fetchone()
    without: Any = connection.execute(
        f"SELECT count(*) FILTER (unit IS NULL AND step IS NOT NULL) FROM {seen.rows}", seen.parameters
    ).fetchone()
    return Coverage(*row, rows_without_unit=without[0])


def _sum_up(
    connection: DuckDBPyConnection, query: ExperimentQuery, metrics: Sequence[tuple[int, MetricQuery]]
) -> list[dict[str, Any]]:
    """Rows of step, bucket, challenger and the sums of every metric, `<name of the sum>_<i>`."""
    # Whole microseconds: half the time of grouping by a DOUBLE.
    width = query.bucket // timedelta(microseconds=1)
    sums = ", ".join(_sums(i, metric) for i, metric in metrics)
    result = connection.execute(
        f"""SELECT step, epoch_us(exposed) // {width} AS bucket, challenger, {sums}
            FROM unit_values GROUP BY ALL ORDER BY ALL"""
    )
    names = [column[0] for column in result.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return [row | {"bucket": row["bucket"] * width / 1e6} for row in rows]


def _sums(i: int, metric: MetricQuery) -> str:
    known = terms(f"y{i}", f"d{i}", f"x{i}") | {"lost": f"count(lost{i})"}
    names = (*added_up(metric.kind, covariate=metric.covariate is not None), "lost")
    return ", ".join(f"coalesce({known[name]}, 0)::DOUBLE AS {name}_{i}" for name in names)


def _cells(i: int, metric: MetricQuery, rows: Sequence[dict[str, Any]]) -> list[Cell]:
    sides: dict[tuple[int, float], dict[bool, tuple[Sums, float]]] = {}
    for row in rows:
        sums, lost = _of_row(i, metric, row), row[f"lost_{i}"]
        if sums.n or lost:
            sides.setdefault((row["step"], row["bucket"]), {})[row["challenger"]] = (sums, lost)
    found: list[Cell] = []
    for (step, bucket), side in sides.items():
        (zero, lost), (one, canary_lost) = (side.get(arm, (Sums(), 0.0)) for arm in (False, True))
        found.append(Cell(metric.name, step, bucket, zero, one, metric.reference, lost, canary_lost))
    return found


def _of_row(i: int, metric: MetricQuery, row: dict[str, Any]) -> Sums:
    names = added_up(metric.kind, covariate=metric.covariate is not None)
    return Sums(**with_the_rest({name: row[f"{name}_{i}"] for name in names}))
