"""Which unit was sent to which version first, and how much traffic there was."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from resources.lake.connection import Lake, table
from resources.lake.schema import fields


class Seen(NamedTuple):
    """One request of a unit, with the version that it was first sent to."""

    unit: str
    at: datetime
    is_challenger: bool


class Traffic(NamedTuple):
    """Live traffic of a span of time, whichever version answered."""

    first: datetime | None
    """The first request; None without any."""
    units: int
    requests: int


def first_sides(
    lake: Lake,
    model: str,
    *,
    challenger: str,
    champion: str | None,
    start: datetime,
    until: datetime,
    most: int,
) -> Sequence[Seen]:
    """The `most` most recent live requests in [start, until), newest first. Raises `LakeError`.

    A request that was tried again elsewhere is one request of the version that it was first sent to.
    """
    with lake.connect() as connection:
        fields(connection, model)
        rows = connection.execute(
            f"""SELECT any_value(unit_id), min(requested_at) AS first, arg_min(version, requested_at) = $version
            FROM {table(model, "predictions")}
            WHERE assignment = 'weighted' AND version IN ($version, $champion)
                AND requested_at >= $start AND requested_at < $until
            GROUP BY request_id ORDER BY first DESC LIMIT {most:d}""",
            {"version": challenger, "champion": champion, "start": start, "until": until},
        ).fetchall()
    return [Seen(unit or "", at, is_challenger) for unit, at, is_challenger in rows]


def live_traffic(lake: Lake, model: str, *, by_request: bool, start: datetime, end: datetime) -> Traffic:
    """What came in [start, end); the unit is the request, or what callers name. Raises `LakeError`."""
    unit = "request_id" if by_request else "unit_id"
    with lake.connect() as connection:
        fields(connection, model)
        row: Any = connection.execute(
            f"""SELECT min(requested_at), count(DISTINCT {unit}), count(DISTINCT request_id)
            FROM {table(model, "predictions")}
            WHERE assignment = 'weighted' AND requested_at >= $start AND requested_at < $end""",
            {"start": start, "end": end},
        ).fetchone()
    return Traffic(*row)
