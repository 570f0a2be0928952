"""Whoever watches is killed, frozen or starved, and the canary begins to do harm at that moment -> 0 %.

The watcher is the standing watch: a thread of the code server (part `code`). One blow to that process ends the watch over
all models, so that each round measures the shares of several open rollouts at once.

    killed    the server and all of its children, -9; supervisord starts it again
    frozen    the same, SIGSTOP, until all shares are away
    starved   stopped likewise, but for `SLICE_S` in every `EVERY_S`

0 % is when the service's state has no share and Envoy confirms the routes after that: by the lease, or by the watch, which
ever was first. The watcher's last moment is the blow, and of one that is starved the last renewal after it, if there was one.
"""

import argparse
import random
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from http import HTTPStatus

import psutil

from benchmarks.rollback_parts.boundary import await_end, client_failures, live, tell_failures
from benchmarks.rollback_parts.onlooker import Onlooker, Share
from benchmarks.rollback_parts.rows import NotMeasurable, Row, percentiles, row
from pipelines.core.rollout.state import RolloutState
from resources.serving.contract import LEASE
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lease import Leases
from resources.serving.embedded.state import StateStore
from resources.serving.embedded.supervisor import Supervisor, wait_until
from tests.support.answer_log import logged_answers
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop, sent_at

MODELS = ("one", "two", "three", "four", "five")

P99_LIMIT_S = LEASE.total_seconds() + 2.0

SLICE_S, EVERY_S = 0.02, 2.0

PATIENCE_S = 240.0

LONGEST_PAUSE_S = 3.0
"""The blow comes at any moment between two renewals, and looks of the guard."""

AT_THE_LEASE = "the lease itself, before which nothing may be taken away"


def rows(given: argparse.Namespace) -> list[Row]:
    """Of as many shares as `given.watchers`, a third in each way."""
    rounds = -(-given.watchers // len(MODELS))
    ways = [tuple(BLOWS)[number % len(BLOWS)] for number in range(rounds)]
    draw, shares = random.Random(given.seed), list[Share]()
    with light_platform(MODELS) as platform, ExitStack() as stack:
        loops = [OpenLoop(platform.settings, model, given.rate / len(MODELS)) for model in MODELS]
        for loop in loops:
            stack.enter_context(loop.running())
        for number, how in enumerate(ways, start=1):
            shares += one_round(platform, how, str(number + 1), draw)
            for share in shares[-len(MODELS) :]:
                print(f"{number}/{rounds}: {share.seconds:.2f} s: {asdict(share)}", flush=True)
    for loop in loops:
        tell_failures(loop)
    return in_rows(shares, loops)


def one_round(platform: LightPlatform, how: str, version: str, draw: random.Random) -> list[Share]:
    """One blow, over all models."""
    harm = platform.settings.home / f"harm-{version}"
    opened = {
        model: platform.open(model, platform.register(model, version, fail_share=1.0, once=str(harm)))
        for model in MODELS
    }
    await_watch(platform, MODELS)
    time.sleep(draw.uniform(0.0, LONGEST_PAUSE_S))
    with BLOWS[how](watchers(platform)):
        blow = time.time()
        harm.touch()
        shares = {model: Share(how=how, rollout=opened[model], blow=blow) for model in MODELS}
        Onlooker(platform.settings, shares).look_on(seconds=PATIENCE_S)
    time.sleep(1)  # whatever still reaches the canaries is in their logs by then
    for model, share in shares.items():
        count(platform, platform.state(opened[model]), share)
    for rollout_id in opened.values():
        await_end(platform, rollout_id)
    return list(shares.values())


def await_watch(platform: LightPlatform, models: Sequence[str]) -> None:
    """Until every share is there, and was renewed after now: on a busy machine one may have lapsed meanwhile."""
    layout, now = Layout(platform.settings.home), time.time_ns()
    leases, store = Leases(layout.leases), StateStore(layout.states)

    def watched(model: str) -> bool:
        return store.read(model).leased is not None and (leases.last_word(model) or 0) > now

    if not wait_until(lambda: all(map(watched, models)), seconds=PATIENCE_S, every=0.1):
        raise NotMeasurable(f"not every share was watched within {PATIENCE_S:g} s")


def watchers(platform: LightPlatform) -> list[psutil.Process]:
    """The code server and its children, one of which watches."""
    root = psutil.Process(Supervisor(Layout(platform.settings.home).socket).processes()["code"].pid)
    return [root, *root.children(recursive=True)]


@contextmanager
def killed(processes: Sequence[psutil.Process]) -> Generator[None]:
    _send(processes, signal.SIGKILL)
    yield


@contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Generator[None]:
    _send(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(processes, signal.SIGCONT)


@contextmanager
def starved(processes: Sequence[psutil.Process]) -> Generator[None]:
    over = threading.Event()

    def starve() -> None:
        while not over.wait(EVERY_S - SLICE_S):
            _send(processes, signal.SIGCONT)
            time.sleep(SLICE_S)
            _send(processes, signal.SIGSTOP)

    with frozen(processes):
        thread = threading.Thread(target=starve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _send(processes: Sequence[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # started again by the watch over the parts
            process.send_signal(what)


BLOWS: dict[str, Callable[[Sequence[psutil.Process]], AbstractContextManager[None]]] = {
    "killed": killed,
    "frozen": frozen,
    "starved": starved,
}


def count(platform: LightPlatform, state: RolloutState, share: Share) -> None:
    """What reached the canary."""
    answers = [
        each
        for each in logged_answers(platform.settings, state.model)
        if each.version == state.version and live(each, state)
    ]
    share.harmed = sum(each.status != HTTPStatus.OK for each in answers)
    share.after = sum(sent_at(each.request_id) > share.away for each in answers)


def in_rows(shares: Sequence[Share], loops: Sequence[OpenLoop]) -> list[Row]:
    """All together, and each way alone."""
    rounds = len(shares) // len(MODELS)
    size = f"{len(shares)} shares ({rounds} blows, each to the one watcher of {len(MODELS)} open rollouts)"
    lease = [LEASE.total_seconds()]
    free = {50: None, 99: None}
    alerts = [share.alert - share.away for share in shares if share.alert]
    found = percentiles(
        f"the watcher's last moment -> 0 % confirmed by Envoy, {size}",
        [share.seconds for share in shares],
        {50: None, 99: P99_LIMIT_S},
        reference=lease,
        reference_is=AT_THE_LEASE,
    )
    for how in dict.fromkeys(share.how for share in shares):
        mine = [share for share in shares if share.how == how]
        by = f"{sum(share.by_lease for share in mine)} of {len(mine)} by the lease, the others by the watch"
        found += percentiles(
            f"blow and first harm -> 0 %, watcher {how}, {by}",
            [share.away - share.blow for share in mine],
            free if how == "starved" else {50: None, 99: P99_LIMIT_S},
            reference=lease,
            reference_is=AT_THE_LEASE,
        )
    if alerts:
        found += percentiles(
            f"0 % -> its alert is in a channel, {len(alerts)} lapses",
            alerts,
            free,
            reference=lease,
            reference_is="the lease",
        )
    return [*found, *_requests(shares, loops)]


def _requests(shares: Sequence[Share], loops: Sequence[OpenLoop]) -> list[Row]:
    harmed = sum(share.harmed for share in shares)
    return [
        row(
            f"harmful answers of canaries between blow and 0 %, a share, {len(shares)} shares at 10 % of"
            f" {loops[0].rate:g} requests a second",
            harmed / len(shares),
            limit=None,
            unit="requests",
        ),
        row(
            "live requests at the canary after 0 % was confirmed",
            sum(share.after for share in shares),
            limit=0,
            unit="requests",
        ),
        row(
            "lapses of which nobody was told",
            sum(share.by_lease and not share.alert for share in shares),
            limit=0,
            unit="lapses",
        ),
        client_failures(loops),
    ]
