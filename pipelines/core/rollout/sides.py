"""What is served, what the registry says, and whether a rollout may go on between the two. Pure.

What is served is the other side of a rollout, always. Where the registry says something else, nothing is promoted
until they agree: one of them was changed by hand, and only a person knows which.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches

from pipelines.core.rollout.events import Action
from pipelines.core.rollout.policy import REGISTERED, SERVED
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, OnFail, Verdict

CHAMPION = "champion"

_LOOKS_LIKE = 0.7
"""How much an alias must resemble `champion` to be named as a slip of the pen (difflib's ratio)."""

VALID = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class RegistrySide:
    """The registry's answers."""

    champion: str | None
    """The version that has the alias `champion`; None: asked, and none has it."""
    withdrawn: Mapping[str, str] = field(default_factory=dict[str, str])
    """Versions that must not be used any more, and why: `is not in the registry any more`."""
    aliases: tuple[str, ...] = ()
    """All aliases of the served version."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both sides of one model, asked at about the same time."""

    served: str | None
    """The stable revision's version: None where nothing is served, empty where the serving side does not name it."""
    registered: RegistrySide


def disagreement(sides: Sides, version: str) -> str:
    """Both facts in words where what is served is not the champion; empty where `version` may go on between them.

    Where nothing is served, the champion itself may be started again: there is nothing to compare it with.
    """
    champion = sides.registered.champion
    if sides.served == champion or (sides.served is None and champion == version):
        return ""
    alias = (
        f"no version has the alias `{CHAMPION}`"
        if champion is None
        else f"version {champion} has the alias `{CHAMPION}`"
    )
    return f"{served_in_words(sides.served)}, but {alias}"


def served_in_words(served: str | None) -> str:
    """What is served, for people."""
    if served is None:
        return "nothing is served"
    return f"version {served} is served" if served else "what is served does not say which version it is"


def remedy(sides: Sides, version: str) -> str:
    """What a person can do about a disagreement that keeps `version` from starting."""
    served, registered = sides.served, sides.registered
    if served is None:
        return (
            f"give version {registered.champion} the alias `challenger` to serve it again, or take `{CHAMPION}`"
            f" from it to serve version {version} without a comparison"
        )
    if not served:
        return "write the version into the served predictor's annotation `rampgate.io/version`"
    if gone := registered.withdrawn.get(served):
        return (
            f"version {served} {gone}; it goes on serving, and cannot be started again once its artefact is gone."
            f" To compare version {version} with it all the same, launch the start job with `against: {served}`"
        )
    alike = get_close_matches(
        CHAMPION, [alias.casefold() for alias in registered.aliases], cutoff=_LOOKS_LIKE
    )
    slip = f" (it has {', '.join(f'`{alias}`' for alias in registered.aliases)})" if alike else ""
    return f"give version {served} the alias `{CHAMPION}`{slip}, or put the champion back into service"


def not_yet(sides: Sides, version: str) -> str:
    """Why `version` cannot be started now; empty where it can. This is no verdict on the version."""
    if gone := sides.registered.withdrawn.get(version):
        return f"version {version} {gone}"
    problem = disagreement(sides, version)
    return f"{problem}; {remedy(sides, version)}" if problem else ""


def evidence_of(state: RolloutState, sides: Sides, now: datetime) -> tuple[Evidence, Evidence]:
    """What both sides mean for a rollout under way: evidence `SERVED`, and `REGISTERED`."""
    return _served(state, sides, now), _registered(state, sides.registered, now)


def still_served(state: RolloutState, served: str | None, now: datetime) -> Evidence:
    """Whether the other side is still served, where the registry could not be asked."""
    problem = _changed(state, served)
    return _evidence(SERVED, problem or served_in_words(served), now, ok=not problem, on_fail=OnFail.HOLD)


def cannot_tell(problem: str, now: datetime) -> Evidence:
    """The same, where the serving side could not be asked."""
    return Evidence(
        name=SERVED,
        source="serving",
        verdict=Verdict.UNKNOWN,
        reason=f"cannot tell what is served: {problem}",
        at=now,
        valid_for=VALID,
    )


def _served(state: RolloutState, sides: Sides, now: datetime) -> Evidence:
    problem = _changed(state, sides.served) or (
        "" if state.despite else _registry_says_otherwise(state, sides)
    )
    words = problem or f"{served_in_words(sides.served)}, as at the start"
    return _evidence(SERVED, words, now, ok=not problem, on_fail=OnFail.HOLD)


def _registry_says_otherwise(state: RolloutState, sides: Sides) -> str:
    """During a bake the version itself is the champion, once that is registered, beside the previous one that is stable."""
    if state.promotion is None or state.phase is Phase.ROLLING_BACK:
        return disagreement(sides, state.version)
    champion = sides.registered.champion
    allowed = (state.version,) if Action.REGISTER in state.done else (state.version, state.champion)
    if champion in allowed:
        return ""
    alias = "no version has" if champion is None else f"version {champion} has"
    return f"version {state.version} is promoted and bakes, but {alias} the alias `{CHAMPION}`"


def _changed(state: RolloutState, served: str | None) -> str:
    if served == state.champion:
        return ""
    began = "with nothing served" if state.champion is None else f"against version {state.champion}"
    return f"{served_in_words(served)}, but the rollout was started {began}"


def _registered(state: RolloutState, registered: RegistrySide, now: datetime) -> Evidence:
    """A champion that a person chose although it is gone does not go a second time, and a previous one is no champion."""
    against = None if state.despite or state.promotion is not None else state.champion
    gone = next((v for v in (state.version, against) if v is not None and v in registered.withdrawn), None)
    if gone is None:
        return _evidence(REGISTERED, "both versions are there", now, ok=True, on_fail=OnFail.ROLL_BACK)
    role = "the challenger" if gone == state.version else "the champion, which goes on serving"
    reason = f"version {gone} ({role}) {registered.withdrawn[gone]}"
    return _evidence(REGISTERED, reason, now, ok=False, on_fail=OnFail.ROLL_BACK, gone=gone)


def _evidence(name: str, reason: str, now: datetime, *, ok: bool, on_fail: OnFail, **values: str) -> Evidence:
    verdict = Verdict.PASS if ok else Verdict.FAIL
    return Evidence(
        name=name, source="serving" if name == SERVED else "registry", verdict=verdict, reason=reason, at=now,
        on_fail=on_fail, valid_for=VALID, values=values,
    )  # fmt: skip
