"""A sensor that looks again and again within its tick."""

from datetime import timedelta

import dagster as dg

from sensors.ticks import MOST_SAID, Found, looked

NOW = timedelta(0)

SHORT = timedelta(milliseconds=5)


def test_a_tick_ends_with_the_first_news() -> None:
    news = dg.RunRequest(job_name="churn_step", run_key="a")
    looks = iter([Found(), Found(), Found((news,), cursor="later"), Found()])
    found = looked(lambda: next(looks), every=SHORT, tick=timedelta(seconds=5), otherwise="nothing")
    assert isinstance(found, dg.SensorResult)
    assert (list(found.run_requests or ()), found.cursor) == ([news], "later")
    assert len(list(looks)) == 1


def test_a_tick_without_news_says_what_the_last_look_said() -> None:
    looks = iter([Found(said=("first",)), Found(said=("second",)), Found()])
    told = [looked(lambda: next(looks), every=SHORT, tick=NOW, otherwise="nothing") for _ in range(3)]
    assert [each.skip_message for each in told if isinstance(each, dg.SkipReason)] == [
        "first",
        "second",
        "nothing",
    ]


def test_what_a_tick_says_of_very_many_models_is_cut_short() -> None:
    look = Found(said=tuple(f"model {number}" for number in range(300)))
    found = looked(lambda: look, every=SHORT, tick=NOW, otherwise="")
    assert isinstance(found, dg.SkipReason)
    assert str(found.skip_message).endswith(f"; and {300 - MOST_SAID} more")
