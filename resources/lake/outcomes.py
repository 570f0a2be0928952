"""Loads outcomes (labels, conversions, revenue) into the lake in long form, exactly once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from resources.lake import segments
from resources.lake.connection import Lake, table
from resources.lake.schema import KEY, LARGEST, exists, upgrade_tables
from resources.lake.segments import Unusable

SOURCE = "outcomes"

SKEW = timedelta(minutes=5)
"""How far clocks may disagree before an outcome counts as seen in the future, or before its exposure."""

_LINE = "{id: 'VARCHAR', key: 'VARCHAR', 'at': 'VARCHAR', 'values': 'MAP(VARCHAR, VARCHAR)'}"


@dataclass(frozen=True, kw_only=True)
class OutcomeReport:
    """What one call loaded."""

    segments: int = 0
    rows: int = 0
    """Values: one per metric of an outcome event."""
    bad: int = 0
    """In the quarantine with the reason: malformed lines, NaN, infinite and non-numeric values, future times."""
    duplicates: int = 0
    """Values whose (id, metric) was there already; left out."""
    unknown: int = 0
    """Keys without a prediction so far. Their outcomes are kept and count once the prediction comes."""
    before_exposure: int = 0
    """Values seen before the first prediction of their key; kept, but no experiment counts them."""
    postponed: int = 0
    """Segments left for later because the model has no tables yet (no prediction was ever ingested)."""


def ingest_outcomes(
    lake: Lake,
    model: str,
    directory: Path,
    *,
    now: datetime | None = None,
    duplicates_within: timedelta = timedelta(days=7),
    exposed_within: timedelta = timedelta(days=30),
    portion_bytes: int = segments.PORTION,
) -> OutcomeReport:
    """Load the closed outcome files of `directory` that are not in the lake yet, oldest first.

    A repeated id is recognised when its `at` lies within `duplicates_within` of the first; exposures are looked
    for `exposed_within` before the oldest outcome. A file whose content breaks the loading goes to the quarantine as a
    whole, and what comes after it is loaded. Raises `LakeError`.
    """
    latest = (now or datetime.now(UTC)) + SKEW
    report = OutcomeReport()
    with lake.connect() as connection:
        if not exists(connection, model):
            found = len(list(directory.glob("*.jsonl"))) if directory.is_dir() else 0
            return OutcomeReport(postponed=found)
        upgrade_tables(lake, connection, model)
        loading = _OutcomeLoading(lake, connection, model, latest, (duplicates_within, exposed_within))
        waiting = segments.not_loaded(connection, model, SOURCE, directory)
        for paths in segments.portions(waiting, portion_bytes):
            for part in segments.load_what_can_be(lake, connection, model, SOURCE, paths, loading.load):
                report = _plus(report, part or OutcomeReport(segments=1, bad=1))
    return report


@dataclass(frozen=True)
class _OutcomeLoading:
    """What is the same for all portions of one call."""

    lake: Lake
    connection: DuckDBPyConnection
    model: str
    latest: datetime
    windows: tuple[timedelta, timedelta]

    def load(self, paths: Sequence[Path]) -> OutcomeReport:
        """One portion, in one transaction."""
        with segments.short_lines(paths, segments.LONGEST_LINE, self.lake.scratch) as (readable, long):
            bad = _read(self.connection, readable, self.latest).with_more(long)
        commit = partial(_commit, model=self.model, paths=paths, bad=bad, windows=self.windows)
        return self.lake.transaction(commit, self.connection)


def _read(connection: DuckDBPyConnection, paths: Sequence[Path], latest: datetime) -> Unusable:
    """Fill the temporary table `items` (a row per value); returns the lines that are no outcome at all."""
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE parsed AS
        SELECT *, id IS NOT NULL AND key IS NOT NULL AND seen_at IS NOT NULL AND len(map_keys("values")) > 0
            AND NOT {segments.has_nul("id")} AND NOT {segments.has_nul("key")} AS usable
        FROM (
            SELECT id, key, {segments.moment('"at"')} AS seen_at, "values", parse_filename(filename) AS segment
            FROM read_json($paths, format = 'newline_delimited', columns = {_LINE}, ignore_errors = true,
                filename = true, maximum_object_size = {segments.line_limit(paths, segments.LONGEST_LINE)})
        )""",
        {"paths": [str(path) for path in paths]},
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE items AS
        SELECT *, CASE
            WHEN seen_at > $latest THEN concat('seen at ', seen_at, ', in the future')
            WHEN {segments.has_nul("metric")} THEN 'a metric''s name has a NUL'
            WHEN text IS NULL THEN metric || ' == null'
            WHEN value IS NULL THEN concat(metric, ' == ', left(text, 80), ', not a number')
            WHEN NOT isfinite(value) THEN concat(metric, ' == ', value, ', not finite')
            WHEN abs(value) > {LARGEST!r} THEN concat(metric, ' == ', value, ', more than {LARGEST:g}')
            END AS wrong
        FROM (
            SELECT id, key, seen_at, segment, item.key AS metric, item.value AS text,
                CASE lower(item.value) WHEN 'true' THEN 1 WHEN 'false' THEN 0
                    ELSE TRY_CAST(item.value AS DOUBLE) END AS value
            FROM (SELECT id, key, seen_at, segment, unnest(map_entries("values")) AS item FROM parsed WHERE usable)
        )""",
        {"latest": latest},
    )
    rows = connection.execute(
        "SELECT segment, count(*) FROM parsed WHERE usable IS NOT TRUE GROUP BY segment"
    ).fetchall()
    return segments.explain(paths, dict(rows), _problem)


def _commit(
    connection: DuckDBPyConnection,
    *,
    model: str,
    paths: Sequence[Path],
    bad: Unusable,
    windows: tuple[timedelta, timedelta],
) -> OutcomeReport:
    segments.take_fence(connection, model)
    taken = set(segments.loaded(connection, model, SOURCE, [path.name for path in paths]))
    fresh = [path.name for path in paths if path.name not in taken]
    if not fresh:
        return OutcomeReport()
    connection.execute("DELETE FROM items WHERE list_contains($taken, segment)", {"taken": list(taken)})
    wrong, good = _counts(connection)
    bad = bad.without(taken)
    bad_per_segment = bad.counts + wrong
    loaded = _append(connection, model, windows[0])
    _quarantine_values(connection, model)
    segments.put(connection, model, SOURCE, bad.lines)
    segments.record(
        connection, model, SOURCE, [(name, loaded[name], bad_per_segment[name]) for name in fresh]
    )
    unknown, early = _exposure(connection, model, windows[1])
    return OutcomeReport(
        segments=len(fresh),
        rows=loaded.total(),
        bad=bad_per_segment.total(),
        duplicates=good - loaded.total(),
        unknown=unknown,
        before_exposure=early,
    )


def _counts(connection: DuckDBPyConnection) -> tuple[Counter[str], int]:
    """Wrong values per segment, and how many are good."""
    rows = connection.execute(
        "SELECT segment, count(wrong), count(*) - count(wrong) FROM items GROUP BY segment"
    ).fetchall()
    return Counter({segment: wrong for segment, wrong, _ in rows}), sum(good for _, _, good in rows)


def _append(connection: DuckDBPyConnection, model: str, duplicates_within: timedelta) -> Counter[str]:
    """Append the values that are neither wrong nor there already; returns rows per segment."""
    outcomes = table(model, "outcomes")
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT id, key, metric, value, seen_at, segment FROM (
            SELECT * FROM items WHERE wrong IS NULL
            QUALIFY row_number() OVER (PARTITION BY id, metric ORDER BY rowid) = 1
        ) ANTI JOIN (
            SELECT id, metric FROM {outcomes}
            WHERE "at" >= (SELECT min(seen_at) FROM items) - $within
                AND "at" <= (SELECT max(seen_at) FROM items) + $within
        ) USING (id, metric)""",
        {"within": duplicates_within},
    )
    connection.execute(
        f'INSERT INTO {outcomes} BY NAME SELECT * EXCLUDE (seen_at), seen_at AS "at" FROM fresh'
    )
    rows: list[Any] = connection.execute("SELECT segment, count(*) FROM fresh GROUP BY segment").fetchall()
    return Counter(dict(rows))


def _quarantine_values(connection: DuckDBPyConnection, model: str) -> None:
    connection.execute(
        f"""
        INSERT INTO {table(model, "quarantine")} BY NAME
        SELECT $source AS source, segment, NULL::BIGINT AS line, wrong AS reason, 'outcome ' || id AS raw,
            now() AS quarantined_at
        FROM items WHERE wrong IS NOT NULL""",
        {"source": SOURCE},
    )


def _exposure(connection: DuckDBPyConnection, model: str, exposed_within: timedelta) -> tuple[int, int]:
    """(keys without a prediction, values seen before their key's first prediction), of `fresh`."""
    seen = f"""SELECT {KEY} AS request_key, unit_id, requested_at FROM {table(model, "predictions")}
        WHERE "row" = 0 AND requested_at >= (SELECT min(seen_at) FROM fresh) - $within"""
    row: Any = connection.execute(
        f"""
        WITH seen AS ({seen}),
        keys AS (SELECT DISTINCT key FROM fresh),
        exposed AS (
            SELECT key, min(requested_at) AS first FROM (
                SELECT key, requested_at FROM keys JOIN seen ON request_key = key
                UNION ALL SELECT key, requested_at FROM keys JOIN seen ON unit_id = key
            ) GROUP BY key
        )
        SELECT count(DISTINCT key) FILTER (first IS NULL), count(*) FILTER (seen_at < first - $skew)
        FROM fresh LEFT JOIN exposed USING (key)""",
        {"within": exposed_within, "skew": SKEW},
    ).fetchone()
    return row[0], row[1]


def _problem(event: dict[str, Any]) -> str | None:
    for name in ("id", "key"):
        if event.get(name) is None:
            return f"no {name}"
        if "\0" in str(event[name]):
            return f"{name} has a NUL"
    wrong = segments.no_moment("at", event.get("at"))
    if wrong is not None:
        return wrong
    if not isinstance(event.get("values"), dict) or not event["values"]:
        return "values is not an object with at least one metric"
    return None


def _plus(total: OutcomeReport, part: OutcomeReport) -> OutcomeReport:
    names = [field.name for field in dataclass_fields(OutcomeReport)]
    return OutcomeReport(**{name: getattr(total, name) + getattr(part, name) for name in names})
