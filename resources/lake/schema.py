"""A model's tables: typed from its signature, and grown when a new version needs more."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import duckdb
from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError, SignatureConflict
from resources.lake.connection import Lake, identifier, table
from resources.registry.signature import KINDS, Column, ModelSchema

ANSWERED = "status BETWEEN 200 AND 299"
"""SQL of what makes a row of `predictions` an answer; anything else is an error, as in the serving side's counters."""

KEY = "coalesce(caller_id, request_id)"
"""SQL of what outcomes know a request by: the id that its caller gave it or was told."""

LARGEST = 1e50
"""No value that is counted is larger: its square, and the fourth power that a plan reads, would be no numbers any more."""

_LATER: Mapping[str, tuple[str, ...]] = {
    "predictions": ("caller_id",),
    "unpaired": ("record_id", "caller_id"),
}
"""Columns that tables of an earlier release lack."""

_WIDENS = {
    ("INTEGER", "BIGINT"), ("INTEGER", "DOUBLE"), ("BIGINT", "DOUBLE"), ("FLOAT", "DOUBLE"),
}  # fmt: skip

_WORDS = {kind.sql: name for name, kind in KINDS.items()}

Fields = dict[str, str]
"""Field name -> SQL type, of one struct."""


def ensure_tables(
    lake: Lake,
    connection: DuckDBPyConnection,
    model: str,
    schema: ModelSchema,
    *,
    spoken_for: Collection[str] | None = None,
) -> None:
    """Create the model's tables, or add and widen what `schema` needs and they lack.

    Raises `SignatureConflict` naming column, old and new type where the types do not fit; nothing is changed then. A
    column that never had a value takes any type, unless it is `spoken_for` (`features.<name>` and `outputs.<name>` of
    what is served; None: all are): the version that brought it never answered, and may be mended.
    """
    if not _changes(connection, model, schema, spoken_for):
        return

    lake.transaction(lambda inside: _execute(inside, _changes(inside, model, schema, spoken_for)), connection)


def fields(connection: DuckDBPyConnection, model: str) -> tuple[Fields, Fields]:
    """The fields of `features` and of `outputs` as the lake holds them. Raises `LakeError` without tables."""
    found = _existing(connection, model)
    if found is None:
        raise LakeError(f"the lake holds nothing of model {model!r} yet")
    return found


def one_request(each: str) -> str:
    """SQL that leaves out the rows of a `key` that several requests share (`each` tells them apart): nobody knows which of
    them an outcome is about.
    """
    return f"QUALIFY min({each}) OVER (PARTITION BY key) = max({each}) OVER (PARTITION BY key)"


ATTEMPT = "(request_id, coalesce(revision, ''), requested_at)"
"""Tells a call's attempts apart."""


def earlier_attempts(rows: str, *, of: str, where: str = "TRUE") -> str:
    """SQL of each `ATTEMPT` but the last one at a call, which `of` tells apart: it failed, or had not answered in time and
    may have answered late all the same. The caller got what the last one answered.
    """
    return f"""SELECT {ATTEMPT[1:-1]} FROM {rows} WHERE {where} AND "row" = 0
        QUALIFY row_number() OVER (PARTITION BY {of} ORDER BY requested_at DESC, revision DESC) > 1"""


def exists(connection: DuckDBPyConnection, model: str) -> bool:
    """Whether the model has its tables."""
    return _existing(connection, model) is not None


def _changes(
    connection: DuckDBPyConnection, model: str, schema: ModelSchema, spoken_for: Collection[str] | None
) -> list[str]:
    existing = _existing(connection, model)
    if existing is None:
        return _creation(model, schema)
    statements = _added(connection, model)
    for struct, old, columns in (
        ("features", existing[0], schema.inputs),
        ("outputs", existing[1], schema.outputs),
    ):
        kept = old if spoken_for is None else _kept(connection, model, struct, old, columns, spoken_for)
        new = _merged(struct, kept, columns)
        if new != old:
            for name in ("predictions", "unpaired"):
                statements += _retyped(table(model, name), struct, old, kept, new)
    return statements


def _retyped(of: str, struct: str, old: Fields, kept: Fields, new: Fields) -> list[str]:
    """A struct has one field at least: one without any that stays is made anew."""
    if not kept:
        return [
            f"ALTER TABLE {of} DROP COLUMN {struct}",
            f"ALTER TABLE {of} ADD COLUMN {struct} {_struct(new)}",
        ]
    gone = (name for name in old if name not in kept)
    return [
        *(f"ALTER TABLE {of} DROP COLUMN {struct}.{identifier(name)}" for name in gone),
        f"ALTER TABLE {of} ALTER COLUMN {struct} SET DATA TYPE {_struct(new)}",
    ]


def _kept(
    connection: DuckDBPyConnection,
    model: str,
    struct: str,
    old: Fields,
    columns: Iterable[Column],
    spoken_for: Collection[str],
) -> Fields:
    """`old` without the fields that `columns` do not fit, that nothing served has, and that no row has a value of."""
    wanted = {column.name.lower(): column.sql_type for column in columns}
    theirs = {name.lower() for name in spoken_for}
    return {
        name: kind
        for name, kind in old.items()
        if _wide_enough(kind, wanted.get(name.lower(), kind))
        or f"{struct}.{name}".lower() in theirs
        or _is_used(connection, model, struct, name)
    }


def _is_used(connection: DuckDBPyConnection, model: str, struct: str, name: str) -> bool:
    found = " UNION ALL ".join(
        f"(SELECT 1 FROM {table(model, each)} WHERE {struct}.{identifier(name)} IS NOT NULL LIMIT 1)"
        for each in ("predictions", "unpaired")
    )
    return connection.execute(found).fetchone() is not None


def upgrade_tables(lake: Lake, connection: DuckDBPyConnection, model: str) -> None:
    """Give tables of an earlier release the columns that they lack; nothing else changes."""
    if _added(connection, model):
        lake.transaction(lambda inside: _execute(inside, _added(inside, model)), connection)


def _execute(connection: DuckDBPyConnection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)


def _added(connection: DuckDBPyConnection, model: str) -> list[str]:
    found = {
        name: set(connection.sql(f"SELECT * FROM {table(model, name)} LIMIT 0").columns) for name in _LATER
    }
    return [
        f"ALTER TABLE {table(model, name)} ADD COLUMN {column} VARCHAR"
        for name, columns in _LATER.items()
        for column in columns
        if column not in found[name]
    ]


def _merged(struct: str, old: Fields, columns: Iterable[Column]) -> Fields:
    """`old` with what `columns` add and widen; a column that the lake holds wider already stays as it is.

    A name that differs by case alone is the same field, under the spelling that came first.
    """
    spelt = {name.lower(): name for name in old}
    new = dict(old)
    for column in columns:
        name = spelt.get(column.name.lower(), column.name)
        have, want = old.get(name), column.sql_type
        both = want if have is None else _wide_enough(have, want)
        if both is None:
            raise SignatureConflict(
                f"{struct}.{column.name} is {_in_words(str(have))} in the lake, from an earlier version, and"
                f" {_in_words(want)} in the new version's signature: these do not fit; keep the type, or give the"
                " column another name"
            )
        new[name] = both
    return new


def _wide_enough(have: str, want: str) -> str | None:
    """The type that holds both, or None: a list and a single value are no kin."""
    if have.endswith("[]") and want.endswith("[]"):
        of = _wide_enough(have.removesuffix("[]"), want.removesuffix("[]"))
        return None if of is None else f"{of}[]"
    if have == want or (want, have) in _WIDENS:
        return have
    if (have, want) in _WIDENS:
        return want
    return "DOUBLE" if {(have, "DOUBLE"), (want, "DOUBLE")} <= _WIDENS else None


def _in_words(kind: str) -> str:
    """MLflow's name of a DuckDB type, and both for who looks into the lake."""
    plain = kind.removesuffix("[]")
    name = _WORDS.get(plain, plain.lower())
    return f"{'a list of ' if plain != kind else ''}{name} ({kind})"


def _creation(model: str, schema: ModelSchema) -> list[str]:
    features = _struct({c.name: c.sql_type for c in schema.inputs})
    outputs = _struct({c.name: c.sql_type for c in schema.outputs})
    tensors = "STRUCT(name VARCHAR, shape BIGINT[], datatype VARCHAR, data VARCHAR[])[]"
    tables = {
        "predictions": f"""request_id VARCHAR, caller_id VARCHAR, "row" INTEGER, unit_id VARCHAR, revision VARCHAR, version VARCHAR,
            assignment VARCHAR, requested_at TIMESTAMPTZ, responded_at TIMESTAMPTZ, latency_ms DOUBLE,
            status INTEGER, features {features}, outputs {outputs}, segment VARCHAR""",
        "unpaired": f"""record_id VARCHAR, request_id VARCHAR, caller_id VARCHAR, revision VARCHAR, kind VARCHAR, seen_at TIMESTAMPTZ, unit_id VARCHAR,
            version VARCHAR, assignment VARCHAR, latency_ms DOUBLE, status INTEGER, "rows" INTEGER,
            features {features}, outputs {outputs}, wrong VARCHAR, tensors {tensors}, segment VARCHAR""",
        "outcomes": "id VARCHAR, key VARCHAR, metric VARCHAR, value DOUBLE, at TIMESTAMPTZ, segment VARCHAR",
        "segments": "source VARCHAR, name VARCHAR, rows BIGINT, bad BIGINT, loaded_at TIMESTAMPTZ",
        "quarantine": """source VARCHAR, segment VARCHAR, line BIGINT, reason VARCHAR, raw VARCHAR,
            quarantined_at TIMESTAMPTZ""",
        "fence": "writes BIGINT",
    }
    return [
        f"CREATE SCHEMA IF NOT EXISTS lake.{identifier(model)}",
        *(f"CREATE TABLE {table(model, name)} ({_quoted(columns)})" for name, columns in tables.items()),
        f"INSERT INTO {table(model, 'fence')} VALUES (0)",
    ]


def _quoted(columns: str) -> str:
    """`at` and `rows` are keywords."""
    return columns.replace(" at ", ' "at" ').replace(" rows ", ' "rows" ')


def _existing(connection: DuckDBPyConnection, model: str) -> tuple[Fields, Fields] | None:
    try:
        relation = connection.sql(f"SELECT features, outputs FROM {table(model, 'predictions')} LIMIT 0")
    except duckdb.CatalogException:
        return None
    features, outputs = ({name: str(kind) for name, kind in struct.children} for struct in relation.types)
    return features, outputs


def _struct(columns: Fields) -> str:
    return "STRUCT(" + ", ".join(f"{identifier(name)} {kind}" for name, kind in columns.items()) + ")"


# What the lake holds of a model, in numbers.


class RowCounts(NamedTuple):
    """Numbers for reports; all 0 before the first ingestion."""

    requests: int = 0
    """Distinct request ids."""
    rows: int = 0
    duplicates: int = 0
    """Rows beyond one per (request id, revision, time, row)."""
    failed: int = 0
    """Distinct request ids with an answer of any status but 2xx."""
    outcomes: int = 0
    """Outcome values."""
    unpaired: int = 0
    quarantined: int = 0
    segments: int = 0


def counts(lake: Lake, model: str) -> RowCounts:
    """Reads whole tables: for reports, not for every tick."""
    with lake.connect() as connection:
        if not exists(connection, model):
            return RowCounts()
        row: Any = connection.execute(
            f"""
            SELECT count(DISTINCT request_id), sum(copies), sum(copies) - count(*),
                count(DISTINCT request_id) FILTER (failed),
                (SELECT count(*) FROM {table(model, "outcomes")}),
                (SELECT count(*) FROM {table(model, "unpaired")}),
                (SELECT count(*) FROM {table(model, "quarantine")}),
                (SELECT count(*) FROM {table(model, "segments")})
            FROM (
                SELECT request_id, count(*) AS copies, bool_or(NOT ({ANSWERED})) AS failed
                FROM {table(model, "predictions")} GROUP BY request_id, revision, requested_at, "row"
            )"""
        ).fetchone()
    return RowCounts(*(int(value or 0) for value in row))
