"""Plan a rollout, or one metric of it, from numbers given by hand."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import Model, load_model
from pipelines.core.manifest.model import Metric
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import ParameterError, require_positive
from pipelines.core.statistics.planning import Baseline, Plan, Target, duration_words, plan
from pipelines.core.statistics.power import Design, SequentialMethod
from pipelines.experiments.floors import Expected
from pipelines.experiments.history import metrics_of
from pipelines.experiments.promotion_plan import PromotionPlan, plan_promotion
from resources.lake.measuring import Known

_PLENTY = 1_000_000
"""Units that a rate given by hand is taken to come from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; 0 when the rollout can end well in time, 1 when it is underpowered, 2 for a mistake."""
    given = _parser().parse_args(arguments)
    try:
        if given.manifest is not None:
            whole = _plan_whole(given)
            print(told_whole(whole))
            return 0 if whole.is_powered else 1
        made = _plan(given)
    except (ParameterError, ManifestError) as error:
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
        ("takes", 11),
        ("visible", 10),
        ("inconclusive", 13),
    )
    lines = [" ".join(f"{head:>{width}}" for head, width in heads)]
    for step in made.steps:
        lines.append(
            f"{step.share:>6.1%} {step.challenger_units:>12,.0f} {step.champion_units:>12,.0f} {duration_words(step.days):>11}"
            f" {step.detectable:>10.4g} {step.inconclusive:>13.0%}"
        )
    words = [
        "",
        f"Effect planned for: {made.effect:.4g}. {_price(made)}",
        f"visible: the smallest effect found within {duration_words(made.max_days)};"
        " inconclusive: the chance of no answer by then.",
        *made.sentences,
        *(f"WARNING: {warning}" for warning in made.warnings),
    ]
    return "\n".join([*lines, *words])


def told_whole(made: PromotionPlan) -> str:
    """The plan of the whole decision: a table of its metrics, and in words."""
    lines = [f"{'metric':<24} {'holds alone':>12} {f'{made.each:.0%} take':>14}"]
    for index, metric in enumerate(made.metrics):
        days = made.metric_days(index)
        takes = duration_words(days) if math.isfinite(days) else "too long"
        lines.append(f"{metric.name:<24} {made.metric_chance(index):>12.0%} {takes:>14}")
    warned = "" if made.is_powered else "WARNING: "
    first, *others = made.sentences
    return "\n".join([*lines, "", f"{warned}{first}", *others])


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


def _plan_whole(given: argparse.Namespace) -> PromotionPlan:
    path = Path(given.manifest)
    loaded = load_model(path.parent if path.is_file() else path)
    if not isinstance(loaded, Model):
        raise loaded[0]
    metrics = {metric.name: metric for metric in metrics_of(loaded.rollout)}
    known = dict(_known(text, metrics) for text in given.known or ())
    missing = [name for name in metrics if name not in known]
    if missing:
        raise ParameterError(
            f"--known is missing for {', '.join(missing)}, such as --known {missing[0]}=0.2%"
        )
    requests = given.requests_per_day or given.per_day
    for name, value in (("--per-day", given.per_day), ("--requests-per-day", requests)):
        require_positive(name, value)
    return plan_promotion(loaded.rollout, Expected(given.per_day, requests, known))


def _known(text: str, metrics: Mapping[str, Metric]) -> tuple[str, Known]:
    """`errors=0.2%`, or `revenue=4.20,9` with the standard deviation per unit."""
    name, _, numbers = text.partition("=")
    if name not in metrics:
        raise ParameterError(f"--known {text}: no metric {name!r}, the manifest has {', '.join(metrics)}")
    try:
        value, *others = (_relative(number) for number in numbers.split(","))
    except ValueError:
        raise ParameterError(
            f"--known {text}: expected a number, such as {name}=0.2% or {name}=4.20,9"
        ) from None
    if metrics[name].type.is_share:
        if others or not 0 <= value <= 1:
            raise ParameterError(f"--known {text}: expected one rate from 0 to 1, such as {name}=0.2%")
        variance = value * (1 - value)
    else:
        if len(others) != 1 or others[0] < 0:
            raise ParameterError(
                f"--known {text}: expected value and standard deviation, such as {name}=4.20,9"
            )
        variance = others[0] ** 2
    return name, Known(
        units=_PLENTY, value=value, variance=variance, kurtosis=3.0, cap=metrics[name].cap, covariate=None
    )


def _plan(given: argparse.Namespace) -> Plan:
    if given.baseline is None or (given.mde is None) == (given.margin is None):
        raise ParameterError("--type needs --baseline, and either --mde or --margin")
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
        description="How likely a healthy version is promoted in time; how many units a metric needs, and what it can see.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--manifest",
        help="a model's rollout.yaml: plan the whole decision, with --known for each of its metrics",
    )
    what.add_argument("--type", choices=[kind.value for kind in EffectKind], help="plan one metric")
    parser.add_argument(
        "--known",
        action="append",
        help="NAME=RATE, or NAME=VALUE,SD; of the champion, per unit; once for each metric",
    )
    parser.add_argument("--baseline", type=float, help="rate, mean or ratio of the champion")
    effect = parser.add_mutually_exclusive_group()
    effect.add_argument("--mde", type=_relative, help="smallest relative change worth seeing, such as 5%%")
    effect.add_argument("--margin", type=_absolute, help="absolute change to rule out, such as 0.5pp")
    spread = parser.add_mutually_exclusive_group()
    spread.add_argument("--variance", type=float, help="per unit; not for a proportion")
    spread.add_argument("--sd", type=float, help="standard deviation per unit; not for a proportion")
    parser.add_argument("--per-day", type=float, required=True, help="units a day, both versions together")
    parser.add_argument("--requests-per-day", type=float, help="with --manifest; default: as many as units")
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
