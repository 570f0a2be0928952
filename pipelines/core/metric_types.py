"""The types that a metric of a manifest can have: one record each, which everything else reads.

The manifest's rules and its published schema, the lake's query, the plan, the test and the words follow from the record. A
further type that is measured and tested like one of these is one more record in `TYPES`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipelines.core.statistics.effects import EffectKind

Key = Literal["denominator", "retention", "cap", "winsorise", "covariate"]
"""A key of a metric that only some types have."""


class Missing(StrEnum):
    """What a unit becomes that has no value when its outcome window is over."""

    EXCLUDE = "exclude"
    """It is left out, and as many must be left out at both versions."""
    ZERO = "zero"
    """It counts as 0: nothing came of it."""


class UnitValue(StrEnum):
    """How a unit's many values become one."""

    ANY = "any"
    """1 when any value is above zero, else 0."""
    AMOUNT = "amount"
    """The sum of an outcome's values; the average of a prediction column's."""
    RATIO = "ratio"
    """Sum over sum of the denominator."""
    RETURN = "return"
    """1 when the unit asks again `retention` after its exposure or later."""


@dataclass(frozen=True, kw_only=True)
class MetricType:
    """What `type: <name>` means."""

    name: str
    unit_value: UnitValue
    """What the lake makes of a unit."""
    kind: EffectKind
    """How the values of all units are compared: chooses the test, the plan and the words."""
    needs: tuple[Key, ...] = ()
    """Keys that it must have."""
    takes: tuple[Key, ...] = ()
    """Keys that it may have."""

    @property
    def is_share(self) -> bool:
        """Its values and margins lie between 0 and 1, and are written in percent and points."""
        return self.kind.is_count

    @property
    def is_counted_by_answer(self) -> bool:
        """An answer has it or has it not: what `serving.errors` and `serving.over_slo` are."""
        return self.unit_value is UnitValue.ANY

    @property
    def is_seen_later(self) -> bool:
        """Whether the unit asks again: seen in the prediction log, `retention` after its exposure."""
        return self.unit_value is UnitValue.RETURN


_NOISY: tuple[Key, ...] = ("cap", "winsorise", "covariate")

TYPES: Mapping[str, MetricType] = {
    each.name: each
    for each in (
        MetricType(name="proportion", unit_value=UnitValue.ANY, kind=EffectKind.PROPORTION),
        MetricType(name="mean", unit_value=UnitValue.AMOUNT, kind=EffectKind.MEAN, takes=_NOISY),
        MetricType(
            name="ratio",
            unit_value=UnitValue.RATIO,
            kind=EffectKind.RATIO,
            needs=("denominator",),
            takes=_NOISY,
        ),
        MetricType(
            name="retention", unit_value=UnitValue.RETURN, kind=EffectKind.PROPORTION, needs=("retention",)
        ),
    )
}
"""By name, in the order in which messages and the published schema list them."""


def needed_keys() -> tuple[Key, ...]:
    """Every key that some type must have; no other type may have it."""
    return tuple(dict.fromkeys(key for each in TYPES.values() for key in each.needs))


def taken_keys() -> tuple[Key, ...]:
    """Every key that some type may have; no other type may have it."""
    return tuple(dict.fromkeys(key for each in TYPES.values() for key in each.takes))


def owners(key: Key) -> str:
    """The types that have this key, as the manifest writes them: `type: mean or type: ratio`."""
    having = (each.name for each in TYPES.values() if key in (*each.needs, *each.takes))
    return " or ".join(f"type: {name}" for name in having)


def listed(types: Iterable[MetricType]) -> str:
    """Their names, quoted: `'mean', 'ratio' or 'retention'`."""
    *others, last = [repr(each.name) for each in types]
    return f"{', '.join(others)} or {last}" if others else last
