"""The same sums through tea-tasting: where both packages answer the same question, the answers agree.

Ours divides by n where tea-tasting divides by n - 1, takes the larger of Welch's and the pooled variance (the data is
made so that this is Welch's), and has theta within arms where tea-tasting has it over both: hence the tolerances.
"""

import numpy as np
import pytest
from scipy.stats import norm
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import Mean, RatioOfMeans

from pipelines.core.statistics.columns import columns
from pipelines.core.statistics.effects import Cell, EffectKind, Stratum, Sums, stratified_effect

UNITS = {"champion": 9000, "challenger": 3000}

COLUMNS = ("y", "d", "x")

Data = dict[str, np.ndarray]


def adjusted(strata: list[Stratum], kind: EffectKind) -> list[Stratum]:
    """The strata as the look sees them with CUPED."""
    cells = [Cell("m", step, 0.0, *stratum) for step, stratum in enumerate(strata)]
    return list(columns(cells, "m", kind).adjusted(kind).strata().values())


def sample(seed: int, n: int, *, shift: float, spread: float) -> Data:
    """Views and clicks per unit with a pre-period value that explains part of the clicks."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, 2.0, n)
    d = 1.0 + rng.poisson(3.0, n)
    return {"x": x, "d": d, "y": shift + 0.4 * d + 0.7 * x + rng.normal(0, spread, n)}


@pytest.fixture(scope="module")
def arms() -> tuple[Data, Data]:
    return (
        sample(1, UNITS["champion"], shift=0.0, spread=1.0),
        sample(2, UNITS["challenger"], shift=0.15, spread=2.0),
    )


def ours(data: Data) -> Sums:
    y, d, x = (data[name] for name in COLUMNS)
    pairs = [y, y * y, d, d * d, y * d, x, x * x, x * y, x * d]
    return Sums(len(y), *(float(column.sum()) for column in pairs))


def theirs(data: Data) -> Aggregates:
    covariance = np.cov([data[name] for name in COLUMNS])
    return Aggregates(
        count_=len(data["y"]),
        mean_={name: float(data[name].mean()) for name in COLUMNS},
        var_={name: float(covariance[i, i]) for i, name in enumerate(COLUMNS)},
        cov_={
            tuple(sorted((a, b))): float(covariance[i, j])
            for i, a in enumerate(COLUMNS)
            for j, b in enumerate(COLUMNS)
            if i < j
        },
    )


@pytest.mark.parametrize(
    ("kind", "covariate", "metric"),
    [
        (EffectKind.MEAN, False, Mean("y", use_t=False)),
        (EffectKind.MEAN, True, Mean("y", "x", use_t=False)),
        (EffectKind.RATIO, False, RatioOfMeans("y", "d", use_t=False)),
    ],
)
def test_effect_and_variance_agree(
    arms: tuple[Data, Data], kind: EffectKind, covariate: bool, metric: Mean | RatioOfMeans
) -> None:
    strata = [Stratum(ours(arms[0]), ours(arms[1]))]
    effect = stratified_effect(adjusted(strata, kind) if covariate else strata, kind)
    peer = metric.analyze_aggregates(theirs(arms[0]), theirs(arms[1]))
    z = norm.ppf((1 + 0.95) / 2)
    variance = ((peer.effect_size_ci_upper - peer.effect_size_ci_lower) / 2 / z) ** 2
    assert effect is not None
    assert effect.value == pytest.approx(peer.effect_size, rel=5e-3)
    assert effect.variance == pytest.approx(variance, rel=2e-3)
    if not covariate:
        assert (effect.value, effect.champion) == pytest.approx((peer.effect_size, peer.control), rel=1e-10)
