"""A rehearsal in words and as a table, the most important first."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, assert_never

from pipelines.core.manifest.model import Better, Metric
from pipelines.core.rollout.policy import UNITS
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.planning import duration_words
from pipelines.experiments.history import is_served
from pipelines.experiments.rehearsal import Rehearsal, RehearsedVersion
from pipelines.experiments.rehearsal_draws import InjectedHarm

FALSE_ROLLBACKS = 0.05
"""Chance of so many false rollbacks, were they as rare as `alpha`, below which the manifest does not keep its word here."""


class Row(NamedTuple):
    """One version that was played."""

    version: str
    promoted: str
    rolled_back: str
    inconclusive: str
    held: str
    found_after: str
    """The median, and nine in ten."""
    hit: str
    days_to_promote: str


def headline(found: Rehearsal) -> str:
    """The same version, and the worst harm of each metric, in one line."""
    same = found.same
    parts = [
        f"identical version: promoted in {same.of('promoted')} of {len(same.rollouts)}{_after(same)}",
        f"held in {sum(bool(each.held) for each in same.rollouts)}",
        f"rolled back {same.of('rolled_back', 'undone')}",
    ]
    if others := len(same.rollouts) - same.of("promoted", "rolled_back", "undone"):
        parts.append(f"not promoted in time {others}")
    return f"{', '.join(parts)}. {' '.join(_found(found))}"


def _after(played: RehearsedVersion) -> str:
    days = played.days()
    return "" if days is None else f" after {duration_words(days)}"


def _found(found: Rehearsal) -> Iterator[str]:
    for metric in found.stage.metrics:
        mine = [played for played in found.harmed if played.harm and played.harm.metric == metric.name]
        told = [f"{100 * played.harm.level:g} % {_briefly(played)}" for played in mine if played.harm]
        if told:
            yield f"{metric.name} harmed: {'; '.join(told)}."


def _briefly(played: RehearsedVersion) -> str:
    seconds, count, every = played.seconds(), len(played.found), len(played.rollouts)
    if seconds is None or not count:
        return "never found"
    often = "found" if count == every else f"found in {count} of {every}"
    return f"{often} after {_lasts(seconds)}"


def rows(found: Rehearsal) -> tuple[Row, ...]:
    """Every version that was played, as a table."""
    return tuple(_row(found, played) for played in (found.same, *found.harmed))


def _row(found: Rehearsal, played: RehearsedVersion) -> Row:
    every = len(played.rollouts)
    ended = played.of("promoted", "rolled_back", "undone")
    early, late, hit = played.seconds(), played.seconds(0.9), played.hit
    return Row(
        version="identical" if played.harm is None else injected(_metric(found, played.harm), played.harm),
        promoted=f"{played.of('promoted')} of {every}",
        rolled_back=_because(played, "rolled_back", "undone"),
        inconclusive="0" if ended == every else _because(played, *_others(played)),
        held=_counted(name for each in played.rollouts for name in each.held),
        found_after="" if early is None or late is None else f"{_lasts(early)} ({_lasts(late)})",
        hit="" if hit is None or played.harm is None else f"{hit:,.0f} {_hit_are(found, played.harm)}",
        days_to_promote="" if (days := played.days()) is None else duration_words(days),
    )


def _others(played: RehearsedVersion) -> tuple[str, ...]:
    return tuple({each.end for each in played.rollouts} - {"promoted", "rolled_back", "undone"})


def _because(played: RehearsedVersion, *ends: str) -> str:
    those = [each for each in played.rollouts if each.end in ends]
    return (
        f"{len(those)}{_brackets(_counted(name for each in those for name in each.because or (each.end,)))}"
    )


def _brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _counted(names: Iterable[str]) -> str:
    """`errors 3, units 1`."""
    return ", ".join(f"{name} {times}" for name, times in Counter(names).most_common(4))


def _lasts(seconds: float) -> str:
    return duration_words(seconds / 86400)


def _metric(found: Rehearsal, harm: InjectedHarm) -> Metric:
    return next(metric for metric in found.stage.metrics if metric.name == harm.metric)


def _hit_are(found: Rehearsal, harm: InjectedHarm) -> str:
    metric = _metric(found, harm)
    return "answers" if is_served(metric) or found.stage.manifest.experiment.unit == "request" else "units"


def injected(metric: Metric, harm: InjectedHarm) -> str:
    """What was put in, for the metric's type."""
    level = f"{100 * harm.level:g} %"
    match metric.type.kind:
        case EffectKind.PROPORTION if metric.better is Better.HIGHER:
            return f"{metric.name}: {level} of the challenger's units that had it lose it"
        case EffectKind.PROPORTION:
            what = "answers" if is_served(metric) else "units"
            return f"{metric.name}: {level} of the challenger's good {what} become bad"
        case EffectKind.MEAN | EffectKind.RATIO:
            way = "larger" if metric.better is Better.LOWER else "smaller"
            return f"{metric.name}: every unit's value {level} {way} at the challenger"
        case _:
            assert_never(metric.type.kind)


def sentences(found: Rehearsal) -> tuple[str, ...]:
    """What follows from it, and what it cannot tell."""
    return (*warnings(found), *_same_words(found.same), *found.stage.notes, *_limits(found))


def _same_words(same: RehearsedVersion) -> Iterator[str]:
    false, every = same.of("rolled_back", "undone"), len(same.rollouts)
    yield (
        f"False rollbacks: {false} of {every} rollouts of the identical version, with 95 % confidence at most"
        f" {100 * upper_95(false, every):.2g} % of them."
    )
    if undone := same.of("undone"):
        yield f"{undone} of them were taken back in the bake, after the promotion."
    early, late = same.days(), same.days(0.9)
    if early is not None and late is not None:
        yield f"Promoted after {duration_words(early)} (half of them), {duration_words(late)} (nine in ten)."


def upper_95(hits: int, runs: int) -> float:
    """Of a chance, one-sided, by so many hits (Clopper and Pearson)."""
    from scipy.special import betaincinv

    return 1.0 if hits >= runs else float(betaincinv(hits + 1, runs - hits, 0.95))


def _limits(found: Rehearsal) -> Iterator[str]:
    manifest = found.stage.manifest
    yield (
        "Time to find is known to a second at first, later to 3 % of the time since the start. The looks are fewer than a rollout's: one"
        " whenever a step is a sixth older. Harm is there from the first request on, in one metric at a time."
    )
    left_out = [
        "shadow steps" if "shadow" in manifest.steps else "",
        "approvals, which are given at once" if manifest.approval != "none" else "",
        "whether data checks or drift find anything (the rows that they need are waited for)",
        "deployment, validation, and a champion that is unhealthy itself",
    ]
    yield f"Not played: {'; '.join(each for each in left_out if each)}."


def warnings(found: Rehearsal) -> tuple[str, ...]:
    """What the manifest does not keep on this history."""
    return tuple(_warned(found))


def _warned(found: Rehearsal) -> Iterator[str]:
    same, manifest = found.same, found.stage.manifest
    every, false = len(same.rollouts), same.of("rolled_back", "undone")
    alpha = manifest.experiment.alpha
    if every and at_least(false, every, alpha) < FALSE_ROLLBACKS:
        yield (
            f"An identical version was rolled back in {false} of {every} rollouts, `alpha` allows {100 * alpha:g} %: because of"
            f" {_counted(name for each in same.found for name in each.because)}. Units that depend on each other are the usual cause:"
            " name the unit that callers send, or take those metrics `on_fail: warn`."
        )
    if same.of("promoted") < manifest.experiment.power * every:
        late = [each for each in same.rollouts if each.end not in ("promoted", "undone", "rolled_back")]
        why = _counted(name for each in late for name in each.because)
        told = f" What it waited for: {why}.{_units_words(why)}" if why else ""
        yield (
            f"An identical version was promoted in {same.of('promoted')} of {every} rollouts; asked for are"
            f" {100 * manifest.experiment.power:g} %.{told} The plan (job `<model>_plan`) says what to change."
        )


def _units_words(why: str) -> str:
    return " `units` is `step.min_units`." if UNITS in why.split() else ""


def at_least(hits: int, runs: int, chance: float) -> float:
    """How likely so many hits are, or more."""
    from scipy.special import bdtrc

    return 1.0 if hits <= 0 else float(bdtrc(hits - 1, runs, chance))


def numbers(found: Rehearsal) -> dict[str, Any]:
    """The same for programs. What never happened is null; times are medians, in seconds or days."""
    return {
        "rollouts": len(found.same.rollouts),
        "promoted": found.same.of("promoted"),
        "false_rollbacks": found.same.of("rolled_back", "undone"),
        "held": sum(bool(each.held) for each in found.same.rollouts),
        "days_to_promote": _rounded(found.same.days()),
        "harm": [_harm_numbers(played) for played in found.harmed],
    }


def _harm_numbers(played: RehearsedVersion) -> dict[str, Any]:
    harm = played.harm
    return {
        "metric": harm.metric if harm else None,
        "level": harm.level if harm else None,
        "rollouts": len(played.rollouts),
        "found": len(played.found),
        "promoted": played.of("promoted"),
        "seconds_to_find": _rounded(played.seconds()),
        "hit": _rounded(played.hit),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


def markdown(table: Sequence[Row]) -> str:
    """The table, for a page."""
    heads = [name.replace("_", " ") for name in Row._fields]
    lines = [heads, ["---"] * len(heads), *(list(row) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
