"""What a look found, in words that need no statistics."""

import math
from typing import TYPE_CHECKING

from pipelines.statistics.effects import Kind
from pipelines.statistics.harm import Harm
from pipelines.statistics.look_spec import Conclusion

if TYPE_CHECKING:
    from pipelines.statistics.metric_look import MetricLook


def metric_sentence(look: "MetricLook", alpha: float) -> str:
    """One metric: the two values, the difference with its interval, and what follows."""
    if look.champion is None or look.challenger is None or look.effect is None:
        return f"{look.name}: not yet, there are no units of both versions to compare."
    values = (
        f"{look.name}: {_value(look.challenger, look.kind)} at the challenger against"
        f" {_value(look.champion, look.kind)} at the champion"
    )
    if look.interval is None:
        return f"{values}. Not yet: {_counts(look)} are too few to judge."
    return f"{values}, {_difference(look, alpha)}. {_consequence(look)}"


def _difference(look: "MetricLook", alpha: float) -> str:
    assert look.effect is not None and look.interval is not None
    low, high = (_change(end, look.kind) for end in look.interval)
    relative = f" ({100 * look.relative:+.1f} %)" if look.relative is not None else ""
    return (
        f"a difference of {_change(look.effect, look.kind)}{relative}; with {100 * (1 - alpha):g} % confidence"
        f" between {low} and {high}"
    )


def _consequence(look: "MetricLook") -> str:
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
    return f"evidence of harm {_odds(harm.value)} to 1, rolled back at {_odds(harm.boundary)} to 1"


def _odds(log_e: float) -> str:
    if log_e > 16:
        return "over 9 million"
    value = math.exp(log_e)
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "less than 0.1"


def srm_sentence(log_e: float, log_boundary: float, p: float | None, alpha: float) -> str:
    """Whether the variants hold the shares of units that they should."""
    if log_e >= log_boundary or (p is not None and p < alpha):
        final = f", p = {p:.2g}" if p is not None else ""
        return (
            f"The versions do not hold their planned shares of units (evidence {_odds(log_e)} to 1{final}):"
            " assignment or logging is broken, and no comparison can be trusted."
        )
    return "Both versions hold their planned shares of units."


def _counts(look: "MetricLook") -> str:
    return f"{look.challenger_units:,.0f} challenger and {look.champion_units:,.0f} champion units"


def _value(value: float, kind: Kind) -> str:
    return f"{100 * value:.3g} %" if kind is Kind.PROPORTION else f"{value:.4g}"


def _change(value: float, kind: Kind) -> str:
    return f"{100 * value:+.3g} points" if kind is Kind.PROPORTION else f"{value:+.4g}"


def _size(value: float, kind: Kind) -> str:
    return f"{100 * value:.3g} points" if kind is Kind.PROPORTION else f"{value:.4g}"
