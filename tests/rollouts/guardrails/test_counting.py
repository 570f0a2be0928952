"""From cumulative counters to what happened since the last look."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.statistics.binomial import Counts
from pipelines.core.vocabulary import OnFail
from pipelines.rollouts.counting import (
    Growth,
    Watermark,
    by_version,
    first_watermark,
    growth,
    read_watermark,
    written,
)
from pipelines.rollouts.serving_metrics import ServingMetric, counts, serving_metrics
from resources.serving.contract import Counters, GatewayCounters, RevisionCounters
from tests.support.memory_systems import counted_by
from tests.support.rollouts import manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ERRORS = ServingMetric(name="errors", source="serving.errors", slo_ms=None, on_fail=OnFail.ROLL_BACK)

SLOW = ServingMetric(name="slow", source="serving.over_slo", slo_ms=250, on_fail=OnFail.ROLL_BACK)


def seen(
    epoch: str, *revisions: RevisionCounters, began: datetime | None = NOW - timedelta(hours=1)
) -> Counters:
    """Of one gateway, which says when it began."""
    (one,) = counted_by(*revisions, instance=epoch, at=NOW).gateways
    return Counters(at=NOW, gateways=(replace(one, started=began),))


def difference(before: Counters | None, now: Counters) -> Mapping[str, RevisionCounters]:
    return by_version(growth(None if before is None else first_watermark(before), now))


def revision(
    name: str, version: str, requests: int, errors: int = 0, over: dict[int, int] | None = None
) -> RevisionCounters:
    return RevisionCounters(
        revision=name, version=version, requests=requests, errors=errors, over_slo=over or {}
    )


def test_nothing_is_known_before_the_first_look() -> None:
    grown = difference(None, seen("a", revision("r1", "1", 100, 7)))
    assert (grown["1"].requests, grown["1"].errors) == (0, 0)


def test_growth_is_what_came_since_the_last_look() -> None:
    grown = difference(seen("a", revision("r1", "1", 100, 7)), seen("a", revision("r1", "1", 130, 9)))
    assert (grown["1"].requests, grown["1"].errors) == (30, 2)


def test_a_gateway_that_began_since_the_last_look_counts_whole_and_any_other_new_one_from_now_on() -> None:
    before, now = seen("a", revision("r1", "1", 100, 7)), revision("r1", "1", 130, 9)
    grown = difference(before, seen("b", now, began=NOW + timedelta(seconds=1)))
    assert (grown["1"].requests, grown["1"].errors) == (130, 9)
    for began in (NOW, NOW - timedelta(seconds=1), None):
        grown = difference(before, seen("b", now, began=began))
        assert (grown["1"].requests, grown["1"].errors) == (0, 0)


def test_a_revision_that_appears_counts_whole() -> None:
    grown = difference(seen("a", revision("r1", "1", 100)), seen("a", revision("r2", "2", 12, 3)))
    assert (grown["2"].requests, grown["2"].errors) == (12, 3)


def test_a_revision_beside_another_one_is_counted_anew_and_goes_on_where_it_left_off_when_that_comes_back() -> (
    None
):
    """A promotion, or a champion that is replaced by hand and comes back: the gateway counts each pair by itself."""

    def beside(stand_in: str, requests: int) -> Counters:
        return seen("a", replace(revision("r2", "2", requests), stand_in=stand_in))

    mark = first_watermark(beside("r1", 1000))
    for shown, new in ((beside("", 7), 7), (beside("r3", 2), 2), (beside("r1", 1005), 5)):
        assert by_version(growth(mark, shown))["2"].requests == new
        mark = mark.moved(shown)


def test_two_revisions_of_a_version_are_added_up() -> None:
    """A version that is rolled out again, while the gateway still shows its first revision."""
    before = seen("a", revision("r2", "2", 50, 5), revision("r3", "2", 10, 1))
    now = seen("a", revision("r2", "2", 50, 5), revision("r3", "2", 40, 8))
    for order in (now.revisions, now.revisions[::-1]):
        grown = difference(before, seen("a", *order))
        assert (grown["2"].requests, grown["2"].errors) == (30, 7)


def test_an_slo_that_is_not_counted_counts_nothing() -> None:
    grown = difference(seen("a"), seen("a", revision("r1", "1", 10, 1), revision("r2", "2", 10, 2)))
    assert counts(SLOW, grown, canary="2") == Counts()
    assert counts(ERRORS, grown, canary="2") == Counts(10, 2, 10, 1)


def test_a_side_that_is_not_there_has_no_trials() -> None:
    grown = difference(seen("a"), seen("a", revision("r2", "2", 10, 2, {250: 4})))
    assert counts(SLOW, grown, canary="2") == Counts(10, 4, 0, 0)


def test_only_what_the_serving_side_counts_is_watched() -> None:
    assert [metric.name for metric in serving_metrics(manifest())] == ["errors"]


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_counters_that_fall_under_the_same_name_are_no_negative_counts(before: int, now: int) -> None:
    grown = difference(seen("a", revision("r", "2", before, before)), seen("a", revision("r", "2", now, now)))
    assert grown["2"].requests == grown["2"].errors == max(0, now - before)


def test_a_gateway_that_starts_again_under_the_same_name_says_nothing_of_either_version() -> None:
    """One version's counts may already be above what they were, the other's not yet."""
    before = seen("a", revision("r1", "1", 900, 90), revision("r2", "2", 10, 0))
    now = (revision("r1", "1", 200, 0), revision("r2", "2", 20, 5))
    assert counts(ERRORS, difference(before, seen("a", *now)), canary="2") == Counts()
    higher = (revision("r1", "1", 950, 0), revision("r2", "2", 20, 5))
    later = seen("a", *higher, began=NOW + timedelta(seconds=1))
    assert counts(ERRORS, difference(before, later), canary="2") == Counts()


# Any interleaving of what gateways do, against one that would have seen it all.


@dataclass
class Pod:
    """One start of a gateway: what it has counted, by version."""

    name: str
    started: datetime | None
    answered: dict[str, int] = field(default_factory=lambda: {"1": 0, "2": 0})
    failed: dict[str, int] = field(default_factory=lambda: {"1": 0, "2": 0})
    before: tuple[int, ...] = (0, 0, 0, 0)
    """What it had counted when the first look was taken."""

    def shown(self, at: datetime) -> GatewayCounters:
        sides = tuple(revision(f"r{v}", v, self.answered[v], self.failed[v]) for v in ("1", "2"))
        return GatewayCounters(instance=self.name, at=at, started=self.started, revisions=sides)

    def counts(self) -> tuple[int, ...]:
        return (*self.answered.values(), *self.failed.values())


@dataclass
class Pods:
    """The gateways of one service, and a watermark over them."""

    now: datetime = NOW
    there: list[Pod] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    mark: Watermark | None = None
    shares: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    """What was counted of each start of a gateway and version, and how much of it as failed, under each share."""

    def join(self, *, tells: bool, past: int = 0) -> None:
        began = self.now - timedelta(hours=1) if past else self.now
        pod = Pod(f"pod-{len(self.there) + len(self.ended)}", began if tells else None)
        pod.answered = {"1": past, "2": past // 9}
        self.there.append(pod)

    def leave(self, which: int) -> None:
        self.ended.append(self.there.pop(which % len(self.there)))

    def answer(self, which: int, version: str, answers: int, failures: int) -> None:
        pod = self.there[which % len(self.there)]
        pod.answered[version] += answers
        pod.failed[version] += min(answers, failures)

    def look(self, unread: Collection[int] = ()) -> tuple[Growth, ...]:
        read = [pod for number, pod in enumerate(self.there) if number not in unread]
        if not read:
            return ()
        now = Counters(at=self.now, gateways=tuple(pod.shown(self.now) for pod in read))
        if self.mark is None:
            for pod in self.there:
                pod.before = pod.counts()
        grown = growth(self.mark, now)
        self.mark = first_watermark(now) if self.mark is None else self.mark.moved(now)
        for stretch in grown:
            for each in stretch.revisions:
                key = f"{stretch.gateway.instance}/{each.version}"
                self.shares[-1][key] += each.requests
                self.shares[-1][f"{key}/failed"] += each.errors
        return grown

    def other_share(self) -> None:
        if self.mark is not None:
            self.mark = self.mark.under_another_share()
            self.shares.append(Counter())

    def counted(self, key: str) -> int:
        return sum(share[key] for share in self.shares)

    def answered(self, key: str) -> int:
        """Since the first look."""
        name, version, *failed = key.split("/")
        (pod,) = (each for each in (*self.there, *self.ended) if each.name == name)
        place = int(version) - 1 + 2 * len(failed)
        return pod.counts()[place] - (0 if self.mark is None else pod.before[place])


POD, MANY = st.integers(0, 5), st.integers(0, 40)

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), POD, st.sampled_from(["1", "2"]), MANY, MANY),
        st.tuples(st.just("join"), st.booleans(), MANY),
        st.tuples(st.just("leave"), POD),
        st.tuples(st.just("look"), st.sets(POD, max_size=3)),
        st.tuples(st.just("pass"), st.sampled_from([0.2, 1.0, 5.0, 12.0, 400.0])),
        st.tuples(st.just("share")),
    ),
    max_size=60,
)


def play(events: Sequence[tuple[Any, ...]], *, all_read: bool = False) -> Pods:
    pods = Pods()
    pods.join(tells=True, past=1000)
    for event, *told in events:
        match event:
            case "answer" if pods.there:
                pods.answer(*told)
            case "join":
                pods.join(tells=told[0], past=0 if told[0] else told[1])
            case "leave" if len(pods.there) > 1:
                pods.leave(*told)
            case "look":
                pods.look(() if all_read else told[0])
            case "pass":
                pods.now += timedelta(seconds=told[0])
            case "share":
                pods.other_share()
            case _:
                pass
        for key in pods.shares[-1]:
            assert 0 <= pods.counted(key) <= pods.answered(key), f"{event} {told}: {key}"
    return pods


@given(EVENTS)
def test_whatever_gateways_do_each_answer_counts_once_or_not_at_all(events: list[tuple[Any, ...]]) -> None:
    """They join, with and without saying when they began, end, start again, and cannot be read, in any order."""
    play(events)


@given(EVENTS)
def test_gateways_that_are_all_read_at_every_look_count_what_one_that_saw_it_all_would(
    events: list[tuple[Any, ...]],
) -> None:
    """Each says when it began, is there at the next look, within a lease, and ends after one."""
    calm: list[tuple[Any, ...]] = [("look", set[int]())]
    for event in events:
        step = ("join", True, 0) if event[0] == "join" else event
        if event[0] in ("leave", "share"):
            calm.append(("look", set[int]()))
        calm.append(("pass", min(event[1], 5.0)) if event[0] == "pass" else step)
        if event[0] in ("pass", "join"):
            calm.append(("look", set[int]()))
    pods = play([*calm, ("look", set[int]())], all_read=True)
    for pod in (*pods.there, *pods.ended):
        for key in (f"{pod.name}/1", f"{pod.name}/2", f"{pod.name}/1/failed", f"{pod.name}/2/failed"):
            assert pods.counted(key) == pods.answered(key)


@given(EVENTS)
def test_two_that_go_on_from_one_watermark_count_alike(events: list[tuple[Any, ...]]) -> None:
    """Also where one of them reads it from the ledger."""
    pods = play(events)
    if pods.mark is None:
        return
    shown = Counters(at=pods.now, gateways=tuple(pod.shown(pods.now) for pod in pods.there))
    again = read_watermark(written(pods.mark))
    assert again == pods.mark
    assert growth(again, shown) == growth(pods.mark, shown)


@given(EVENTS, st.timedeltas(timedelta(hours=-2), timedelta(hours=2)))
def test_whoever_looks_next_by_another_clock_counts_no_answer_twice(
    events: list[tuple[Any, ...]], off: timedelta
) -> None:
    pods = play(events)
    pods.now += off
    for pod in (*pods.there, *pods.ended):
        pod.started = None if pod.started is None else pod.started + off
    read = {key.split("/")[0] for share in pods.shares for key in share}
    pods.look()
    for key in pods.shares[-1]:
        if key.split("/")[0] in read:
            assert 0 <= pods.counted(key) <= pods.answered(key)
