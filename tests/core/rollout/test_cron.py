"""Cron expressions in wall-clock time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.cron import Cron
from pipelines.core.rollout.policy import FreezeWindow

BERLIN = ZoneInfo("Europe/Berlin")

START = datetime(2026, 3, 29, 12, tzinfo=UTC)


def previous(expression: str, now: datetime, zone: ZoneInfo = BERLIN, days: int = 40) -> datetime | None:
    fired = Cron.parse(expression).previous(now.astimezone(UTC), within=timedelta(days=days), zone=zone)
    return None if fired is None else fired.astimezone(zone)


def berlin(*parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=BERLIN, fold=fold)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("expression", "now", "expected"),
    [
        ("0 18 * * fri", berlin(2026, 5, 10, 12), berlin(2026, 5, 8, 18)),
        ("0 18 * * 5", berlin(2026, 5, 8, 18), berlin(2026, 5, 8, 18)),
        ("*/15 9-17 * * MON-FRI", berlin(2026, 5, 8, 17, 59), berlin(2026, 5, 8, 17, 45)),
        ("30 2 1,15 * *", berlin(2026, 5, 14, 0), berlin(2026, 5, 1, 2, 30)),
        ("0 0 24 dec *", berlin(2026, 12, 31, 0), berlin(2026, 12, 24, 0)),
        ("0 0 13 * 5", berlin(2026, 5, 14, 0), berlin(2026, 5, 13, 0)),
        ("0 0 * * 7", berlin(2026, 5, 12, 0), berlin(2026, 5, 10, 0)),
        ("10/20 * * * *", berlin(2026, 5, 12, 3, 0), berlin(2026, 5, 12, 2, 50)),
    ],
)
def test_the_last_firing(expression: str, now: datetime, expected: datetime) -> None:
    assert previous(expression, now) == expected


def test_a_skipped_hour_fires_as_much_later() -> None:
    fired = previous("30 2 * * *", berlin(2026, 3, 29, 12))
    assert fired == berlin(2026, 3, 29, 3, 30)


def test_a_repeated_hour_fires_twice() -> None:
    first, second = berlin(2026, 10, 25, 2, 30), berlin(2026, 10, 25, 2, 30, fold=1)
    assert previous("30 2 * * *", first.astimezone(UTC)) == first
    assert previous("30 2 * * *", second.astimezone(UTC)).astimezone(UTC) == second.astimezone(UTC)
    assert second.astimezone(UTC) - first.astimezone(UTC) == timedelta(hours=1)


@given(st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)), st.integers(0, 23))
def test_a_daily_firing_is_never_further_than_25_hours_and_at_the_right_wall_time(
    now: datetime, hour: int
) -> None:
    fired = previous(f"0 {hour} * * *", now)
    assert fired is not None
    assert timedelta(0) <= now - fired.astimezone(UTC) <= timedelta(hours=25)
    assert fired.hour == hour or (hour == 2 and fired.month == 3), "the skipped hour moves"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("* * * *", "has 4 fields, expected 5"),
        ("60 * * * *", "minute is '60', expected 0 to 59"),
        ("* * * foo *", "month is 'foo'"),
        ("*/0 * * * *", "minute is '\\*/0'"),
        ("* 9-8 * * *", "hour is '9-8'"),
        ("* * 0 * *", "day of month is '0', expected 1 to 31"),
        ("1;2 * * * *", "minute is '1;2'"),
    ],
)
def test_an_error_names_field_value_and_range(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cron.parse(expression)


@given(st.text(alphabet="0123456789*/-,#LWlwadefmonrtu;? \n²", max_size=30) | st.text(max_size=20))
def test_every_text_is_parsed_or_refused_with_a_value_error(expression: str) -> None:
    try:
        cron = Cron.parse(expression)
    except ValueError as error:
        assert "cron" in str(error)
    else:
        fired = cron.previous(START, within=timedelta(days=3), zone=BERLIN)
        assert fired is None or START - timedelta(days=3) < fired <= START


@pytest.mark.parametrize(
    ("expression", "ever"), [("0 0 31 2,4 *", False), ("0 0 29 2 *", True), ("0 0 31 2 1", True)]
)
def test_a_day_that_none_of_its_months_has_never_comes(expression: str, ever: bool) -> None:
    cron = Cron.parse(expression)
    assert cron.fires is ever
    if not ever:
        assert cron.previous(START, within=timedelta(days=3000), zone=BERLIN) is None


def test_a_weekend_freeze_holds_from_friday_evening_to_monday_morning() -> None:
    freeze = FreezeWindow(cron="0 18 * * fri", duration=timedelta(hours=62), timezone="Europe/Berlin")
    assert freeze.ends(berlin(2026, 5, 8, 17, 59)) is None
    assert freeze.ends(berlin(2026, 5, 8, 18)) == berlin(2026, 5, 11, 8)
    assert freeze.ends(berlin(2026, 5, 11, 7, 59)) == berlin(2026, 5, 11, 8)
    assert freeze.ends(berlin(2026, 5, 11, 8)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"duration": timedelta(0)}, "more than 0s"), ({"timezone": "Mars/Base"}, "IANA name")],
)
def test_a_freeze_that_could_not_be_evaluated_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FreezeWindow(**({"cron": "* * * * *", "duration": timedelta(hours=1)} | changes))  # type: ignore[arg-type]
