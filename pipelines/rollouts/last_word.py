"""What the ledger says of a model's versions, put into the registry by whoever has written there too late.

The registry has no conditions: a process that was held up between deciding what to write and writing it may put an alias
or a tag back that the ledger has long gone past. No lock keeps a frozen process away. So whoever finds that
others went on meanwhile reads the ledger again, and writes until the registry says what the ledger does.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from pipelines.core.errors import LedgerConflict, NotInRegistry
from pipelines.core.rollout.events import Action, End
from pipelines.core.rollout.sides import CHAMPION
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.rollouts.actions import UNDONE, RolloutRegistry, outcome, status_of, tag_version, tags_of
from pipelines.rollouts.journal import Journal
from resources.ledger.ledger import Ledger

ROUNDS = 20


class Word(NamedTuple):
    """What a version's three tags say."""

    rollout_id: str
    status: str
    reason: str


class LastWord:
    """The ledger's word, and the registry that it is put into."""

    def __init__(self, ledger: Ledger, journal: Journal, registry: RolloutRegistry) -> None:
        self._ledger, self._journal, self._registry = ledger, journal, registry

    def put_right(self, model: str, *, tagged: Sequence[str], named: Sequence[str] = ()) -> None:
        """Until a look finds nothing to write: what is written here may be overtaken as well.

        These versions may have been tagged, or named the champion, too late; an alias that somebody has given to
        another one stays. Raises LedgerError, RegistryError.
        """
        for _ in range(ROUNDS):
            states = self._states(model, tagged)
            if not (self._tagged(model, states, tagged) | self._named(model, states, named)):
                return
        raise LedgerConflict(f"{model}: the registry does not come to say what the ledger says")

    def _states(self, model: str, versions: Iterable[str]) -> list[RolloutState]:
        """The model's rollouts, the last one first, back to where each version and the champion have their last word."""
        found: list[RolloutState] = []
        asked = set(versions)
        for row in reversed(self._ledger.rollouts(model)):
            found.append(self._journal.read(row.rollout_id))
            asked.discard(row.version)
            if not asked and any(_champion(state) is not None for state in found):
                break
        return found

    def _tagged(self, model: str, states: Sequence[RolloutState], versions: Iterable[str]) -> bool:
        """Whether a tag had to be written."""
        wrote = False
        for version in versions:
            word, known = _word(states, version), self._registry.version(model, version)
            if word is None or known is None or tags_of(*word).items() <= dict(known.tags).items():
                continue
            with suppress(NotInRegistry):  # deleted just now: there is nothing to write it on
                tag_version(self._registry, model, version, *word)
                wrote = True
        return wrote

    def _named(self, model: str, states: Iterable[RolloutState], versions: Sequence[str]) -> bool:
        """Whether the alias had to be given to another version."""
        if not versions:
            return False
        champion = next((found for each in states if (found := _champion(each)) is not None), None)
        holder = self._registry.version_with_alias(model, CHAMPION)
        if champion is None or holder is None or holder.version == champion or holder.version not in versions:
            return False
        try:
            self._registry.set_alias(model, CHAMPION, champion)
        except NotInRegistry:  # it goes on serving, and is nobody's to name any more
            self._registry.remove_alias(model, CHAMPION)
        return True


def _said(state: RolloutState) -> tuple[End, str] | None:
    """How it ends and why, once that is in the registry or on its way there; None while it will say it by itself."""
    if state.end is not None:
        return state.end, state.end_reason
    on_its_way = state.pending is not None and state.pending.action is Action.REGISTER
    return outcome(state) if on_its_way or Action.REGISTER in state.done else None


def _word(states: Sequence[RolloutState], version: str) -> Word | None:
    """What the version's last rollout says in its tags; None where it has said nothing yet."""
    last = next((state for state in states if state.version == version), None)
    said = None if last is None else _said(last)
    if last is None or said is None:
        return None
    undo = next((each for each in states if each.policy.undoes == last.rollout_id), None)
    taken_back = None if undo is None else _said(undo)
    if undo is not None and taken_back is not None and taken_back[0] is End.PROMOTED:
        return Word(last.rollout_id, UNDONE, undo.despite)
    return Word(last.rollout_id, status_of(last, said[0]), said[1])


def _champion(state: RolloutState) -> str | None:
    """Whom this rollout has named the champion; None where it has named nobody."""
    if state.promotion is not None and state.phase in (Phase.BAKING, Phase.PROMOTING):
        return state.version
    said = _said(state)
    if said is not None and said[0] is End.PROMOTED:
        return state.version
    return None if said is None or state.promotion is None else state.champion
