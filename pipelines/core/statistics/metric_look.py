"""One metric at one look: what was found, and in words that need no statistics."""

import math
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.look_spec import Conclusion
from pipelines.core.statistics.sequences import (
    Interval,
)
from pipelines.core.statistics.slices import TOLD, NamedSlice, SliceLook


@dataclass(frozen=True)
class Harm:
    """Evidence that the challenger is worse than the champion."""

    value: float
    boundary: float
    scale: str = "log e-value"
    """What value and boundary are: `log e-value`, or `z` for group sequential looks."""
    together: float | None = None
    """ln of the sum with the other metrics' e-values, where this is one of those that it takes to reach the boundary."""

    @property
    def is_crossed(self) -> bool:
        return max(self.value, -math.inf if self.together is None else self.together) >= self.boundary

    @property
    def log_e(self) -> float | None:
        """None where it is no e-value."""
        return None if self.scale == "z" else self.value


@dataclass(frozen=True, kw_only=True)
class MetricLook:
    """What one look says about one metric. Differences are challenger minus champion, in the metric's unit."""

    name: str
    kind: EffectKind
    is_primary: bool
    conclusion: Conclusion
    champion: float | None
    challenger: float | None
    champion_units: float
    challenger_units: float
    effect: float | None
    interval: Interval | None
    """Holds the true difference with probability 1 - alpha at all looks together."""
    relative: float | None
    relative_interval: Interval | None
    """None as well while the champion's own value may be 0."""
    harm: Harm
    worst: float | None
    """The worst that the difference may still be, one-sided at alpha, in the metric's unit and sign."""
    margin: float | None
    is_within_margin: bool
    """Non-inferior: `worst` does not reach the margin."""
    fraction: float | None
    """Group sequential: information so far as a share of the planned; give it back in `past_fractions`."""
    sentence: str
    dispersion: float | None = None
    """How many times as much the difference varies over time as independent units would have it; None where it does not clearly."""
    covariate_differs: bool = False
    """The covariate was left aside: it is not as large at both versions, so it was not known before the answer."""
    is_lost: bool = False
    """More of its values are lost at one version than at the other: nothing follows from it, for better or worse."""
    same_needed: float | None = None
    """Every unit of both versions has the same value: the units of each version from which they are called equal."""
    slices: SliceLook | None = None
    """Where units are told apart by a column; `harm` has their part of the evidence, unless all units are tested elsewhere."""

    @property
    def is_harmful(self) -> bool:
        """The evidence of harm passed its boundary: that of all units and of slices of them, or of slices alone."""
        return self.harm.is_crossed or (self.slices is not None and self.slices.is_crossed)

    @property
    def log_e(self) -> float | None:
        """ln of the whole evidence of harm; None where it is no e-value."""
        apart = self.slices is not None and self.slices.boundary is not None
        return self.slices.mixed(self.harm.value) if self.slices is not None and apart else self.harm.log_e


# What a look found, in words that need no statistics.


def metric_sentence(look: MetricLook, alpha: float) -> str:
    """One metric: the two values, the difference with its interval, what follows, and in which slice."""
    return _all_units(look, alpha) + ("" if look.slices is None else _sliced(look.slices, look.kind))


def _all_units(look: MetricLook, alpha: float) -> str:
    if look.champion is None or look.challenger is None or look.effect is None:
        return f"{look.name}: not yet, there are no units of both versions to compare."
    values = (
        f"{look.name}: {_value(look.challenger, look.kind)} at the challenger against"
        f" {_value(look.champion, look.kind)} at the champion"
    )
    if look.same_needed is not None:
        return _equal_sentence(look, look.champion, look.same_needed)
    if look.interval is None:
        return f"{values}. Not yet: {_counts(look)} are too few to judge."
    return f"{values}, {_difference(look, alpha)}. {_consequence(look)}{_varies(look)}{_aside(look)}"


def _sliced(slices: SliceLook, kind: EffectKind) -> str:
    """The slice with the most evidence, and others that have much; empty where none has."""
    told = [each for each in slices.named if each.log_e >= math.log(TOLD)]
    if not told:
        return ""
    begin = ""
    if slices.boundary is not None:
        others = "" if slices.together is None else f", {odds(slices.together)} to 1 with other metrics"
        begin = (
            f" By slices, tested at the looks: evidence of harm {odds(slices.value)} to 1{others}, rolled back at"
            f" {odds(slices.boundary)} to 1."
        )
    lead = "It is where" if slices.is_local else "It is not in one slice alone; the most of one is where"
    more = "; then where ".join(slice_words(each, kind) for each in told)
    return f"{begin} {lead} {more} (the price of looking at {slices.count} slices is paid)."


def slice_words(found: NamedSlice, kind: EffectKind) -> str:
    """`carrier is AA (1.2 % of the units): 9 % at the challenger against 1 % at the champion, evidence 600 to 1`."""
    return (
        f"{found.where.words} ({100 * found.share:.2g} % of the units): {_value(found.challenger, kind)} at the challenger"
        f" against {_value(found.champion, kind)} at the champion, evidence {odds(found.log_e)} to 1"
    )


def _aside(look: MetricLook) -> str:
    if not look.covariate_differs:
        return ""
    return (
        " Compared without its covariate, which is not as large at both versions: it was not known before the answer, and would"
        " take the effect away with the noise."
    )


def _equal_sentence(look: MetricLook, value: float, needed: float) -> str:
    every = f"{look.name}: {_value(value, look.kind)} at every one of {_counts(look)}"
    if look.interval is None:
        return f"{every}. Not yet: it takes {needed:,.0f} of each version to call them equal."
    return f"{every}. Equal values are within any margin."


def _varies(look: MetricLook) -> str:
    if look.dispersion is None:
        return ""
    return (
        f" The difference varies {look.dispersion:.1f} times as much over time as chance explains: either it has changed,"
        " or units depend on each other, and the evidence is weaker than it looks."
    )


def _difference(look: MetricLook, alpha: float) -> str:
    assert look.effect is not None and look.interval is not None
    low, high = (_change(end, look.kind) for end in look.interval)
    relative = f" ({100 * look.relative:+.1f} %)" if look.relative is not None else ""
    return (
        f"a difference of {_change(look.effect, look.kind)}{relative}; with {100 * (1 - alpha):g} % confidence"
        f" between {low} and {high}"
    )


def _consequence(look: MetricLook) -> str:
    evidence = _evidence(look.harm)
    if look.conclusion is Conclusion.WORSE:
        return f"The challenger is worse: {evidence}."
    if look.conclusion is Conclusion.BETTER:
        return "The challenger is better."
    if look.worst is None or look.margin is None:
        return "Not yet: there is too little to judge."
    worst, margin = _change(look.worst, look.kind), _size(look.margin, look.kind)
    if look.is_within_margin:
        return f"Not worse by more than the accepted {margin}: at worst {worst}."
    return f"Not yet: it may still be {worst}, the accepted margin is {margin}; {evidence}."


def _evidence(harm: Harm) -> str:
    if harm.scale == "z":
        wanted = "at a later look" if math.isinf(harm.boundary) else f"at {harm.boundary:.2f}"
        return f"{max(harm.value, 0.0):.2f} standard errors towards harm, rolled back {wanted}"
    if math.isinf(harm.boundary):
        return f"evidence of harm {odds(harm.value)} to 1, tested on the live counters"
    others = "" if harm.together is None else f", {odds(harm.together)} to 1 with that of other metrics"
    return f"evidence of harm {odds(harm.value)} to 1{others}, rolled back at {odds(harm.boundary)} to 1"


def odds(log_e: float) -> str:
    """An e-value as it is said: `15` of `15 to 1`."""
    if log_e > 16:
        return "over 9 million"
    value = math.exp(log_e)
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "less than 0.1"


def srm_sentence(log_e: float, log_boundary: float, p: float | None, alpha: float) -> str:
    """Whether the variants hold the shares of units that they should."""
    if log_e >= log_boundary or (p is not None and p < alpha):
        final = f", p = {p:.2g}" if p is not None else ""
        return (
            f"The versions do not hold their planned shares of units (evidence {odds(log_e)} to 1{final}):"
            " assignment or logging is broken, and no comparison can be trusted."
        )
    return "Both versions hold their planned shares of units."


def _counts(look: MetricLook) -> str:
    return f"{look.challenger_units:,.0f} challenger and {look.champion_units:,.0f} champion units"


class _Written(NamedTuple):
    scale: float
    digits: str
    value: str
    """What follows a value."""
    change: str
    """What follows a difference."""


def _written(kind: EffectKind) -> _Written:
    match kind:
        case EffectKind.PROPORTION:
            return _Written(100, ".3g", " %", " points")
        case EffectKind.MEAN | EffectKind.RATIO:
            return _Written(1, ".4g", "", "")
        case _:
            assert_never(kind)


def _value(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:{how.digits}}{how.value}"


def _change(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:+{how.digits}}{how.change}"


def _size(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:{how.digits}}{how.change}"
