"""Who counts the silence of a watcher: on a clock that only the test moves."""

from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from resources.serving.contract import LEASE
from resources.serving.lease import LOOK, Keeper

SECONDS, EVERY = LEASE.total_seconds(), LOOK.total_seconds()


@dataclass
class Scene:
    """One share, the watcher's marks, and a keeper that looks when it is told to."""

    now: float = 100.0
    marks: dict[str, int] = field(default_factory=lambda: {"m": 0})

    def __post_init__(self) -> None:
        self.keeper = self.started()

    def started(self) -> Keeper[int]:
        return Keeper[int](clock=lambda: self.now)

    def look(self) -> bool:
        return "m" in self.keeper.look(self.marks)

    def until_lapsed(self, every: float = EVERY, most: float = 200.0) -> float:
        began = self.now
        while not self.look() and self.now - began < most:
            self.now += every
        return self.now - began


def test_an_unwatched_share_lapses_after_its_lease_and_at_most_two_looks() -> None:
    assert SECONDS <= Scene().until_lapsed() <= SECONDS + 2 * EVERY


def test_a_keeper_that_starts_grants_a_whole_lease() -> None:
    scene = Scene()
    scene.until_lapsed()
    scene.keeper = scene.started()
    assert scene.until_lapsed() >= SECONDS


def test_a_share_that_is_set_anew_has_a_whole_lease() -> None:
    scene = Scene()
    scene.until_lapsed()
    scene.marks = {}
    assert not scene.look()
    scene.marks = {"m": 0}
    assert scene.until_lapsed() >= SECONDS


def test_a_watcher_and_a_keeper_that_are_stopped_together_lose_nothing() -> None:
    """A suspended machine, a frozen container: whoever wakes first."""
    for asleep in (SECONDS, 3600.0):
        scene = Scene()
        for _ in range(4):
            scene.look()
            scene.now += EVERY
        scene.now += asleep
        assert not scene.look(), "the watcher has not had its turn yet"
        scene.marks["m"] += 1
        scene.now += EVERY
        assert not scene.look()


def test_a_keeper_that_looks_rarely_acts_late_and_never_early() -> None:
    assert Scene().until_lapsed(every=3.0) >= 2 * SECONDS
    scene = Scene()
    for _ in range(40):
        scene.now += 9.0
        scene.marks["m"] += 1
        assert not scene.look()


def test_no_wall_clock_is_read() -> None:
    """Marks are compared for being the same: a clock that was set back makes another mark, as one that was set forward."""
    scene = Scene()
    for mark in (10**18, 5, 10**19, 4):
        for _ in range(round(0.9 * SECONDS / EVERY)):
            scene.marks["m"] = mark
            assert not scene.look()
            scene.now += EVERY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["look", "renew", "set", "brake"]),
            st.floats(0.0, EVERY, allow_nan=False),
        ),
        max_size=200,
    ),
    st.integers(0, 60),
)
def test_a_share_never_stays_longer_than_its_lease_and_two_looks_and_never_lapses_while_it_is_renewed(
    schedule: list[tuple[str, float]], silence: int
) -> None:
    """Whatever is done in whichever order, with a look every half second in between; then nothing for a while."""
    scene, renewed, mark, looked = Scene(), 100.0, 0, 100.0
    steps = [*schedule, *[("look", EVERY)] * silence]
    for what, after in steps:
        if what == "look" or scene.now + after - looked > EVERY:
            scene.now = min(scene.now + after, looked + EVERY)
            looked, lapsed, quiet = scene.now, scene.look(), scene.now - renewed
            assert not lapsed or quiet >= SECONDS
            assert lapsed or "m" not in scene.marks or quiet <= SECONDS + 2 * EVERY
            continue
        scene.now += after
        if what == "brake":
            scene.marks = {}
        elif what == "set" or "m" in scene.marks:
            mark, renewed = mark + 1, scene.now
            scene.marks = {"m": mark}


def test_one_services_silence_is_not_anothers() -> None:
    keeper, now = Keeper[int](lease=timedelta(seconds=1), clock=lambda: now), 0.0
    for tick in range(10):
        now = tick * EVERY
        over = keeper.look({"watched": tick, "unwatched": 0})
        assert set(over) <= {"unwatched"}
    assert over == {"unwatched": 0}
