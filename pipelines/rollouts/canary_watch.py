"""The watch while a canary takes traffic: its counters several times a second, and rollouts that nobody measures."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.core.errors import (
    LedgerConflict,
    LedgerError,
    NotMeasured,
    RampgateError,
    ServingError,
    StillInTraffic,
)
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import Decision, DecisionKind
from pipelines.core.rollout.policy import UNREAD, WATCHED
from pipelines.core.rollout.standing import words
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, OnFail, OnUnknown, Verdict
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.emergency import ALREADY, EMERGENCY, UNRECORDED
from pipelines.rollouts.guardrails import DOUBT_LASTS, GuardrailWatch
from pipelines.rollouts.open_rollout import read_rollout
from pipelines.rollouts.serving_metrics import REPEATED
from resources.ledger.ledger import Ledger, RolloutRow
from resources.notifier import contained, in_words, platform_alert, say, tell
from resources.serving.contract import LEASE, Counters, Lapse, ServingBackend, lapsed_meanwhile

POLL = timedelta(milliseconds=200)

HELD_AGAIN = timedelta(minutes=1)
"""How often the ledger is told of evidence that holds, while it lasts."""

REREAD = timedelta(milliseconds=500)
"""How often the ledger is asked whether the rollout has moved on."""

RENEW = timedelta(seconds=1)
"""How often the serving side is told that the canary's share is watched; it waits ten times as long."""

UNREAD_FOR = LEASE
"""Counters that could not be read for so long hold the rollout: a pod that is replaced is away for less."""

SAVE = timedelta(seconds=2)

STRAYS = timedelta(seconds=15)
"""How often the ledger is asked for rollouts whose model has no manifest."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=250), timedelta(seconds=30)
"""Between two tries to take traffic away, or to tell the ledger of it; doubled each time."""

_WATCHED = (Phase.SHADOW, Phase.STEPPING, Phase.PROMOTING, Phase.BAKING)


class RolledBack(NamedTuple):
    """What a watcher did, for whoever tells it on."""

    rollout_id: str
    model: str
    decision: Decision


class OpenRows:
    """Which rollouts are open: one query for all models, so that the idle ones cost nothing."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._log = ledger, logging.getLogger(__name__)
        self._again_at = 0.0
        self._rows: dict[str, RolloutRow] = {}

    def begin(self, log: logging.Logger) -> None:
        """A new tick: ask at once, and say in its log what goes wrong."""
        self._again_at, self._log = 0.0, log

    def by_model(self) -> dict[str, RolloutRow]:
        """Asked every `REREAD`. While the ledger does not answer, what it said last goes on being watched."""
        if time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + REREAD.total_seconds()
            with contained(self._ledger, self._log, where="the guardrails' list of open rollouts"):
                self._ask()
        return self._rows

    def _ask(self) -> None:
        try:
            self._rows = {row.model: row for row in self._ledger.rollouts(open_only=True)}
        except LedgerError as error:
            say(self._log, logging.WARNING, f"cannot tell which rollouts are open: {error}")


class Watcher:
    """Follows one model's open rollout, polls its counters, and acts on what they amount to."""

    def __init__(self, ledger: Ledger, backend: ServingBackend, controller: Controller, model: Model) -> None:
        self._ledger, self._backend, self._controller = ledger, backend, controller
        self.model, self._model = model.name, model
        self._log = logging.getLogger(__name__)
        self._watch: GuardrailWatch | None = None
        self._overtaken: GuardrailWatch | None = None
        self._state: RolloutState | None = None
        self._reread_at = 0.0
        self._complaints: set[str] = set()
        self._pause, self._again_at = FIRST_PAUSE, 0.0
        self._held_again_at: dict[str, float] = {}
        self._renew_at, self._asked_at = 0.0, float("-inf")
        self._unread_since: float | None = None
        self.said = ""

    def begin(self, log: logging.Logger) -> None:
        """A new tick: say what there is to say in its log, and look at the ledger first."""
        self._log, self._reread_at = log, 0.0
        self._complaints.clear()

    def poll(self, row: RolloutRow | None, counters: Callable[[str], Counters]) -> RolledBack | None:
        """Look once at the model's open rollout; there is nothing to be done where it has none.

        Whatever goes wrong is said and tried again; no other model is delayed by it.
        """
        if row is None:
            self._state, self._watch, self._overtaken, self.said = None, None, None, ""
            return None
        try:
            return self._poll(row.rollout_id, counters)
        except LedgerConflict:
            self._resume()
        except StillInTraffic as error:
            self._complain(str(error))
        except RampgateError as error:
            self._complain(f"{self._model.name}: cannot watch: {error}")
        except Exception as error:  # noqa: BLE001 -- one model's error must not end the watch over the others
            self._complain(f"{self._model.name}: cannot watch: {in_words(error)}", error)
        return None

    def leave(self) -> None:
        """Write down what was counted since the last time."""
        if self._watch is not None:
            self._keep(self._watch, at_once=True)

    def _poll(self, rollout_id: str, counters: Callable[[str], Counters]) -> RolledBack | None:
        if time.monotonic() >= self._reread_at:
            self._reread_at = time.monotonic() + REREAD.total_seconds()
            self._follow(rollout_id)
            if self._state is not None and _is_owed_a_rollback(self._state):
                return self._roll_back(self._state, ())
        watch = self._watch
        if watch is None or self._state is None:
            return None
        lapsed = self._may_have_lapsed(self._state)
        try:
            event = self._look(watch, self._state, counters, lapsed=lapsed)
        except (NotMeasured, ServingError) as error:
            if isinstance(error, NotMeasured):
                # A look all the same: what it means for the rollout is the evidence's matter.
                self._renew(self._state)
            self._note_unread(self._state, str(error))
            raise
        self._keep(watch, at_once=event is not None)
        self._renew(self._state)
        self._note_unread(self._state, "; ".join(watch.unread))
        if event is None and not watch.unread:
            self._watched_again(self._state)
        return event

    def _may_have_lapsed(self, state: RolloutState) -> bool:
        """After a gap, and before it is judged: once it is rolled back, nothing tells any more that its share had lapsed."""
        now, before = time.monotonic(), self._asked_at
        self._asked_at = now
        if now - before < LEASE.total_seconds():
            return False
        lapse: Lapse | None = None
        try:
            lapse = self._backend.status(self._model.name).lapse
            self._note(state, lapse)
        except (LedgerError, ServingError) as error:  # judged all the same
            self._complain(f"{state.rollout_id}: cannot tell whether its share has lapsed: {error}")
            return True
        return lapse is not None

    def _note(self, state: RolloutState, lapse: Lapse | None) -> None:
        if lapse is not None:
            self._complain(lapsed_meanwhile(self._model.name, lapse))
            self._controller.lapsed(state.rollout_id, lapse)

    def _renew(self, state: RolloutState) -> None:
        """Say that the canary is watched: a share for which nobody says so is taken away."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + RENEW.total_seconds()
        try:
            lapse = self._backend.renew(self._model.name, state.version)
        except ServingError as error:
            self._complain(f"{state.rollout_id}: cannot say that it is watched: {error}")
            return
        self._note(state, lapse)

    def _note_unread(self, state: RolloutState, why: str) -> None:
        """Nobody goes on by counters that nobody has read: said again every minute while it lasts, and good for three."""
        now = time.monotonic()
        if not why:
            self._unread_since = None
            return
        self._unread_since = now if self._unread_since is None else self._unread_since
        if now - self._unread_since < UNREAD_FOR.total_seconds():
            return
        unread = Evidence(
            name=UNREAD,
            source="serving",
            verdict=Verdict.UNKNOWN,
            reason=f"could not be read for {words(timedelta(seconds=now - self._unread_since))}: {why}",
            at=datetime.now(UTC),
            on_fail=OnFail.HOLD,
            valid_for=DOUBT_LASTS,
        )
        self._hold(state, [unread])

    def _watched_again(self, state: RolloutState) -> None:
        """After a lapse: what was answered in the gap has been judged, and the share may come back."""
        known = state.evidence.get(WATCHED)
        if state.lapsed is None or (known is not None and known.at >= state.lapsed.at):
            return
        again = Evidence(
            name=WATCHED,
            source="serving",
            verdict=Verdict.PASS,
            reason="the guardrails are looked at again, and none crossed its boundary in the gap",
            at=datetime.now(UTC),
        )
        self._controller.record(state.rollout_id, [again])

    def _keep(self, watch: GuardrailWatch, *, at_once: bool) -> None:
        """Write down what was counted, after it was judged: a ledger that is away must not delay a rollback."""
        try:
            if at_once:
                watch.save()
            else:
                watch.save_if_due()
        except LedgerConflict:
            self._resume()
        except LedgerError as error:
            self._complain(f"{self._model.name}: cannot write down what was counted: {error}")
        except Exception as error:  # noqa: BLE001 -- see `poll`
            self._complain(
                f"{self._model.name}: cannot write down what was counted: {in_words(error)}", error
            )

    def _resume(self) -> None:
        """Another watcher has written these counters down: go on from there at the next look."""
        self._watch, self._overtaken, self._reread_at = None, self._watch or self._overtaken, 0.0

    def _complain(self, message: str, unforeseen: Exception | None = None) -> None:
        """Once for each message in a tick: this is called several times a second. What nobody foresaw is alerted."""
        # Of an unforeseen error the type alone: its text may be another one each time.
        subject = message if unforeseen is None else type(unforeseen).__name__
        if subject in self._complaints:
            return
        self._complaints.add(subject)
        if unforeseen is None:
            say(self._log, logging.WARNING, message)
        else:
            where = f"the guardrails of {self._model.name}"
            tell(self._ledger, self._log, unforeseen, where=where, model=self._model.name)

    def _follow(self, rollout_id: str) -> None:
        """Read where the rollout is; start or stop watching accordingly."""
        before, state = self._state, read_rollout(self._ledger, rollout_id)
        self._state = state
        if state.phase not in _WATCHED or state.champion is None:
            self._watch, self.said = None, f"{rollout_id}: the canary takes no traffic"
            return
        if before is None or before.rollout_id != state.rollout_id:
            self._pause, self._again_at, self._held_again_at = FIRST_PAUSE, 0.0, {}
            self._watch, self._unread_since = None, None
        self._watch = self._watch or self._begun(state)
        self._watch.follow(state)
        self.said = f"{state.rollout_id}: watched at {state.percent:g} %, no guardrail crossed its boundary"

    def _begun(self, state: RolloutState) -> GuardrailWatch:
        """From what the ledger has of this rollout, and what was seen here before another watcher wrote there."""
        watch = GuardrailWatch(
            store=self._ledger.counters, manifest=self._model.rollout, state=state, save_every=SAVE
        )
        if self._overtaken is not None:
            watch.remember(self._overtaken)
        return watch

    def _look(
        self, watch: GuardrailWatch, state: RolloutState, counters: Callable[[str], Counters], *, lapsed: bool
    ) -> RolledBack | None:
        watch.observe(counters(self._model.name), lapsed=lapsed)
        for why in watch.unread:
            # It has taken the share away by itself, if it is not told that the canary is watched.
            self._complain(f"{self._model.name}: a gateway cannot be watched: {why}")
        evidence = watch.evidence(datetime.now(UTC))
        if any(item.on_fail is OnFail.ROLL_BACK for item in evidence):
            return self._roll_back(state, evidence)
        repeated = (item for item in evidence if item.name.endswith(REPEATED))
        self._hold(state, [*repeated, *watch.doubt(datetime.now(UTC))])
        return None

    def _hold(self, state: RolloutState, evidence: Sequence[Evidence]) -> None:
        """Nothing more is given on these answers; whoever advances the rollout reads them in the ledger."""
        now = time.monotonic()
        due = [item for item in evidence if now >= self._held_again_at.get(item.name, 0.0)]
        self._controller.record(state.rollout_id, due)
        self._held_again_at |= {item.name: now + HELD_AGAIN.total_seconds() for item in due}

    def _roll_back(self, state: RolloutState, evidence: Sequence[Evidence]) -> RolledBack | None:
        """Traffic away. Where it would not go, or the ledger could not be told, it is done again, after a pause."""
        if time.monotonic() < self._again_at:
            return None
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._again_at = time.monotonic() + self._pause.total_seconds()
        reason = "; ".join(f"{item.name}: {item.reason}" for item in evidence) or "the evidence in the ledger"
        decision = self._controller.roll_back_now(state.rollout_id, reason, evidence)
        if decision.rule in (EMERGENCY, UNRECORDED):
            self._complain(f"{state.rollout_id}: rolled back: {decision.reason}")
            return None
        self._pause, self._again_at = FIRST_PAUSE, 0.0
        if decision.rule == ALREADY:
            return None
        if decision.kind is not DecisionKind.ROLL_BACK:
            self._complain(f"{state.rollout_id}: not rolled back: {decision.reason}")
            return None
        self._reread_at = 0.0  # told once: what is known of it is out of date
        return RolledBack(state.rollout_id, self._model.name, decision)


class Strays:
    """Open rollouts of models whose manifest is gone or cannot be read: nobody else measures or drives them."""

    def __init__(self, ledger: Ledger, controller: Controller, models: Collection[str]) -> None:
        self._ledger, self.controller, self._models = ledger, controller, models
        self._since: dict[str, float] = {}
        self._again_at = 0.0

    def poll(self, log: logging.Logger) -> None:
        """Now and then: alert about each, and take back those that nobody could measure for `max_unknown`."""
        if time.monotonic() < self._again_at:
            return
        self._again_at = time.monotonic() + STRAYS.total_seconds()
        ledger = self._ledger
        with contained(ledger, log, where="the watch over rollouts without a manifest"):
            for row in ledger.rollouts(open_only=True):
                if row.model not in self._models:
                    with contained(ledger, log, where=f"the watch over {row.rollout_id}", model=row.model):
                        self._look(self.controller.state(row.rollout_id))

    def _look(self, state: RolloutState) -> None:
        blind = timedelta(
            seconds=time.monotonic() - self._since.setdefault(state.rollout_id, time.monotonic())
        )
        policy, gone = state.policy, f"no manifest of {state.model} can be read"
        goes = policy.on_unknown is OnUnknown.ROLL_BACK and state.promotion is None
        fate = f"taken back after {words(policy.max_unknown)}" if goes else _left_open(state)
        platform_alert(
            self._ledger,
            topic=f"stray:{state.rollout_id}",
            title=f"{state.model} version {state.version}: nobody measures its rollout",
            body=f"{state.rollout_id} is open, but {gone}: it is not carried on, nobody watches a share that it has, and it is {fate}",
            model=state.model,
        )
        lasting = goes and blind >= policy.max_unknown and state.phase in _WATCHED
        if lasting or _is_owed_a_rollback(state):
            self.controller.roll_back_now(state.rollout_id, f"{gone} for {words(blind)}")


def _left_open(state: RolloutState) -> str:
    return (
        "left open (on_unknown: hold)"
        if state.promotion is None
        else "promoted and stays so, its bake left open"
    )


def _is_owed_a_rollback(state: RolloutState) -> bool:
    """Traffic that could not be taken away, and evidence from elsewhere (a look at the experiment, a data check)
    that asks for a rollback, do not wait for a run.
    """
    if state.phase is Phase.ROLLING_BACK:
        return state.to_be_taken_back
    return state.phase in _WATCHED and decide(state, (), datetime.now(UTC)).kind is DecisionKind.ROLL_BACK
