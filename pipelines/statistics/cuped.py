"""CUPED: take out of y what a covariate known before exposure already explains (Deng et al. 2013).

y becomes y - theta (x - mean x). theta and mean x are pooled over both arms: a theta per arm would carry
a chance difference of x into the effect. For a ratio, theta is chosen for the residual y - R d.
Units without x must have been given the pre-period mean when the sums were made.
"""

import math
from collections.abc import Sequence

from pipelines.statistics.effects import Kind, Stratum
from pipelines.statistics.sums import Sums


def pooled_theta(strata: Sequence[Stratum], kind: Kind) -> float:
    """Slope of y (or of the residual y - R d) on x within arms and strata, pooled; 0 if x does not vary."""
    arms = [
        (sums, _ratio(stratum, kind)) for stratum in strata for sums in (stratum.champion, stratum.challenger)
    ]
    spread = math.fsum(_centred(s.sxx, s.sx, s.sx, s.n) for s, _ in arms)
    scale = math.fsum(abs(s.sxx) for s, _ in arms)
    if spread <= 1e-12 * scale:
        return 0.0
    joint = math.fsum(
        _centred(s.sxy, s.sx, s.sy, s.n) - r * _centred(s.sxd, s.sx, s.sd, s.n) for s, r in arms
    )
    return joint / spread


def adjusted(strata: Sequence[Stratum], kind: Kind) -> list[Stratum]:
    """The strata with y replaced by y - theta (x - mean x), mean x per stratum over both arms."""
    theta = pooled_theta(strata, kind)
    return list(strata) if theta == 0 else [_adjusted_stratum(stratum, theta) for stratum in strata]


def _adjusted_stratum(stratum: Stratum, theta: float) -> Stratum:
    units = stratum.champion.n + stratum.challenger.n
    if units == 0:
        return stratum
    mean = (stratum.champion.sx + stratum.challenger.sx) / units
    champion, challenger = (adjust(sums, theta, mean) for sums in (stratum.champion, stratum.challenger))
    return Stratum(champion, challenger, stratum.reference)


def adjust(sums: Sums, theta: float, mean: float) -> Sums:
    """The sums that one would have got from y - theta (x - mean) per unit."""
    n = sums.n
    shift_x = sums.sx - mean * n
    shift_xx = sums.sxx - 2 * mean * sums.sx + mean**2 * n
    shift_xy = sums.sxy - mean * sums.sy
    return sums._replace(
        sy=sums.sy - theta * shift_x,
        syy=sums.syy - 2 * theta * shift_xy + theta**2 * shift_xx,
        syd=sums.syd - theta * (sums.sxd - mean * sums.sd),
        sxy=sums.sxy - theta * (sums.sxx - mean * sums.sx),
    )


def _ratio(stratum: Stratum, kind: Kind) -> float:
    both = stratum.champion.plus(stratum.challenger)
    if kind is not Kind.RATIO or both.sd == 0:
        return 0.0
    return (both.sy + stratum.reference * both.n) / both.sd


def _centred(sxy: float, sx: float, sy: float, n: float) -> float:
    return sxy - sx * sy / n if n > 0 else 0.0
