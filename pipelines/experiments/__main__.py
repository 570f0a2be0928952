"""Plan an experiment from numbers given by hand."""

import argparse
import sys
from collections.abc import Sequence
from typing import assert_never

from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.planning import Baseline, Plan, Target, plan
from pipelines.core.statistics.power import Design, SequentialMethod


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; 0 when the experiment can answer in time, 1 when it is underpowered, 2 for a mistake."""
    given = _parser().parse_args(arguments)
    try:
        made = _plan(given)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(told(made))
    return 1 if made.is_underpowered else 0


def told(made: Plan) -> str:
    """The plan as a table and in words."""
    heads = (
        ("share", 6),
        ("challenger", 12),
        ("champion", 12),
        ("days", 8),
        ("visible", 10),
        ("inconclusive", 13),
    )
    lines = [" ".join(f"{head:>{width}}" for head, width in heads)]
    for step in made.steps:
        lines.append(
            f"{step.share:>6.1%} {step.challenger_units:>12,.0f} {step.champion_units:>12,.0f} {step.days:>8.1f}"
            f" {step.detectable:>10.4g} {step.inconclusive:>13.0%}"
        )
    words = [
        "",
        f"Effect planned for: {made.effect:.4g}. {_price(made)}",
        f"visible: the smallest effect found within {made.max_days:g} days;"
        " inconclusive: the chance of no answer by then.",
        *made.sentences,
        *(f"WARNING: {warning}" for warning in made.warnings),
    ]
    return "\n".join([*lines, *words])


def _price(made: Plan) -> str:
    method = made.target.design.method
    match method:
        case SequentialMethod.ANYTIME:
            return f"Looking at any time costs {made.inflation:.2f} times the units of one look."
        case SequentialMethod.GROUP_SEQUENTIAL:
            return (
                f"{made.target.design.looks} planned looks cost {made.inflation:.2f} times the units of one."
            )
        case SequentialMethod.FIXED:
            return "One look, at the end."
        case _:
            assert_never(method)


def _plan(given: argparse.Namespace) -> Plan:
    variance = given.variance if given.sd is None else given.sd**2
    baseline = Baseline(
        name="metric",
        kind=EffectKind(given.type),
        value=given.baseline,
        variance=variance,
        units_per_day=given.per_day,
    )
    design = Design(
        method=SequentialMethod(given.method),
        alpha=given.alpha,
        looks=given.looks,
        one_sided=given.margin is not None,
    )
    target = Target(mde=given.mde, margin=given.margin, power=given.power, design=design)
    shares = [share / 100 for share in given.shares]
    return plan(baseline, target, shares=shares, max_days=given.max_days)


def _change(suffix: str, text: str) -> float:
    """`10%` is 0.1, `0.5pp` is 0.005, a bare number is itself."""
    scale = 0.01 if text.endswith(suffix) else 1.0
    return float(text.removesuffix(suffix)) * scale


def _relative(text: str) -> float:
    return _change("%", text)


def _absolute(text: str) -> float:
    return _change("pp", text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.experiments",
        description="How many units and days an experiment needs, and what it can see.",
    )
    parser.add_argument("--type", choices=[kind.value for kind in EffectKind], required=True)
    parser.add_argument("--baseline", type=float, required=True, help="rate, mean or ratio of the champion")
    effect = parser.add_mutually_exclusive_group(required=True)
    effect.add_argument("--mde", type=_relative, help="smallest relative change worth seeing, such as 5%%")
    effect.add_argument("--margin", type=_absolute, help="absolute change to rule out, such as 0.5pp")
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument("--variance", type=float, help="per unit; not for a proportion")
    spread.add_argument("--sd", type=float, help="standard deviation per unit; not for a proportion")
    parser.add_argument("--per-day", type=float, required=True, help="units a day, both versions together")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[10.0, 50.0], help="percent at the challenger"
    )
    parser.add_argument("--max-days", type=float, default=14.0)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--power", type=float, default=0.8)
    parser.add_argument(
        "--method",
        choices=[method.value for method in SequentialMethod],
        default=SequentialMethod.ANYTIME.value,
    )
    parser.add_argument("--looks", type=int, default=50, help="planned looks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
