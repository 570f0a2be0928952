"""Loads prediction segments into the lake, exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from duckdb import DuckDBPyConnection

from pipelines.core.manifest.model import PredictionLog
from resources.lake import segments
from resources.lake.connection import Lake
from resources.lake.events import problem, read_events
from resources.lake.request_response import load_pairs, waiting_halves
from resources.lake.schema import Fields, ensure_tables, exists, fields, upgrade_tables
from resources.lake.segments import Unusable
from resources.registry.signature import ModelSchema

SOURCE = "predictions"

DEFAULT = PredictionLog()


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one call loaded."""

    segments: int = 0
    rows: int = 0
    """Rows of `predictions`; a batch of n is n rows."""
    bad: int = 0
    """Lines in the quarantine, and predictions with a value that does not fit its column (loaded as NULL)."""
    duplicates: int = 0
    """Halves of predictions that were seen before and were left out."""
    unpaired: int = 0
    """Requests and responses that wait for their other half now, those of earlier calls included."""


def ingest_predictions(
    lake: Lake,
    model: str,
    schema: ModelSchema | None,
    directory: Path,
    *,
    limits: PredictionLog = DEFAULT,
    duplicates_within: timedelta = timedelta(hours=3),
    portion_bytes: int = segments.PORTION,
) -> IngestReport:
    """Load the closed segments of `directory` that are not in the lake yet, oldest first.

    `schema` makes or grows the model's tables first; None takes them as they are and loads nothing where there are none.
    Segments of dead writers are sealed first. Each portion and the record that it was loaded are one
    transaction; a second ingester on the same segments loses the race and finds them loaded. A segment whose content
    breaks the loading goes to the quarantine as a whole, and what comes after it is loaded; a record with more rows than
    `limits` allow goes there alone. Raises `LakeError`.
    """
    from resources.prediction_log.segments import seal_abandoned

    if directory.is_dir():
        seal_abandoned(directory)
    report = IngestReport()
    with lake.connect() as connection:
        if schema is not None:
            ensure_tables(lake, connection, model, schema)
        elif not exists(connection, model):
            return report
        else:
            upgrade_tables(lake, connection, model)
        loading = _Loading(lake, connection, model, fields(connection, model), limits, duplicates_within)
        waiting = segments.not_loaded(connection, model, SOURCE, directory)
        for paths in segments.portions(waiting, portion_bytes):
            for part in segments.load_what_can_be(lake, connection, model, SOURCE, paths, loading.load):
                report = _plus(report, part or IngestReport(segments=1, bad=1))
        return replace(report, unpaired=waiting_halves(connection, model))


@dataclass(frozen=True)
class _Loading:
    """What is the same for all portions of one call."""

    lake: Lake
    connection: DuckDBPyConnection
    model: str
    columns: tuple[Fields, Fields]
    limits: PredictionLog
    duplicates_within: timedelta

    def load(self, paths: Sequence[Path]) -> IngestReport:
        """One portion. All parsing is done before the transaction: while it is open, others wait."""
        bad = self._read(paths)
        commit = partial(
            _commit,
            model=self.model,
            columns=self.columns,
            paths=paths,
            bad=bad,
            duplicates_within=self.duplicates_within,
        )
        return self.lake.transaction(commit, self.connection)

    def _read(self, paths: Sequence[Path]) -> Unusable:
        """Fill `events`; returns what went to the quarantine instead."""
        longest = max(segments.LONGEST_LINE, 4 * self.limits.max_bytes)
        with segments.short_lines(paths, longest, self.lake.scratch) as (readable, long):
            limit = segments.line_limit(readable, longest)
            read_events(self.connection, readable, *self.columns, limits=self.limits, longest_line=limit)
            found = dict(self.connection.execute("SELECT segment, lines FROM malformed").fetchall())
            why = partial(problem, max_rows=self.limits.max_rows)
            return segments.explain(readable, found, why).with_more(long)


def _commit(
    connection: DuckDBPyConnection,
    *,
    model: str,
    columns: tuple[Fields, Fields],
    paths: Sequence[Path],
    bad: Unusable,
    duplicates_within: timedelta,
) -> IngestReport:
    segments.take_fence(connection, model)
    taken = set(segments.loaded(connection, model, SOURCE, [path.name for path in paths]))
    if taken:
        connection.execute("DELETE FROM events WHERE list_contains($taken, segment)", {"taken": list(taken)})
        bad = bad.without(taken)
    loaded = load_pairs(connection, model, SOURCE, columns, duplicates_within)
    segments.put(connection, model, SOURCE, bad.lines)
    fresh = [path.name for path in paths if path.name not in taken]
    wrong = bad.counts + loaded.misfits
    if fresh:
        segments.record(connection, model, SOURCE, [(name, loaded.rows[name], wrong[name]) for name in fresh])
    return IngestReport(
        segments=len(fresh),
        rows=loaded.rows.total(),
        bad=wrong.total(),
        duplicates=loaded.duplicates,
    )


def _plus(total: IngestReport, part: IngestReport) -> IngestReport:
    return IngestReport(
        segments=total.segments + part.segments,
        rows=total.rows + part.rows,
        bad=total.bad + part.bad,
        duplicates=total.duplicates + part.duplicates,
    )
