"""The policy of one rollout: what its manifest said when it started, kept in the ledger with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.core.cron import Cron
from pipelines.core.errors import ManifestError
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.vocabulary import AfterTest, OnFail, OnUnknown

VALIDATION = "validation"

UNITS = "units"

AGREEMENT = "agreement"

CHAMPION_HEALTH = "champion_health"

SERVED = "served-version"
"""Whether the other side is still what is served, and the registry says so, too. No metric can have this name."""

WATCHED = "watched-again"
"""That the guardrails are looked at again after a share has lapsed. No metric can have this name."""

UNREAD = "live-counters"
"""That the serving side's counters, or those of one of its gateways, cannot be read. No metric can have this name."""

LIVE_DOUBT, LOOK_DOUBT = "doubt-live", "doubt-looks"

DOUBTS = (LIVE_DOUBT, LOOK_DOUBT)
"""That harm is too likely to go on, by the live counters and by the looks. No metric can have these names."""

REGISTERED = "registered-versions"
"""Whether both versions are still in the registry."""

Approval = Literal["none", "promote", "every_step"]

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, kw_only=True)
class FreezeWindow:
    """From each firing of `cron` (wall clock of `timezone`) and for `duration`, nothing advances."""

    cron: str
    duration: timedelta
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what could not be evaluated later. Raises ValueError."""
        Cron.parse(self.cron)
        if self.duration <= timedelta(0):
            raise ValueError(f"freeze duration is {self.duration}, expected more than 0s")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"freeze timezone is {self.timezone!r}, expected an IANA name such as Europe/Berlin"
            ) from error

    def ends(self, now: datetime) -> datetime | None:
        """When the window that `now` lies in ends, in UTC; None outside every window."""
        fired = Cron.parse(self.cron).previous(now, within=self.duration, zone=ZoneInfo(self.timezone))
        return None if fired is None else fired + self.duration


@dataclass(frozen=True, kw_only=True)
class AbTestPolicy:
    """Two versions held at a fixed share for a period, instead of a ramp."""

    duration: timedelta
    """From the moment the share came into force."""
    then: AfterTest = AfterTest.KEEP


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How one rollout advances and ends."""

    steps: tuple[Literal["shadow"] | float, ...]
    """Percent of traffic or `shadow`, in order; 100 stands for the promotion."""
    min_duration: timedelta = timedelta(minutes=30)
    min_units: int = 200
    max_unknown: timedelta = timedelta(hours=1)
    on_unknown: OnUnknown = OnUnknown.ROLL_BACK
    max_duration: timedelta = timedelta(days=14)
    approval: Approval = "none"
    freeze: tuple[FreezeWindow, ...] = ()
    dry_run: bool = False
    validate: bool = True
    """Evidence named `validation` must pass before the version gets any traffic."""
    start_timeout: timedelta = timedelta(minutes=3)
    """A version that still cannot be deployed this long after the first attempt is refused."""
    bake: timedelta = timedelta(0)
    """How long the previous champion stays warm after the promotion."""
    holdback: float = 2.0
    """Percent of traffic that it keeps meanwhile."""
    undoes: str = ""
    """The rollout whose promotion this one takes back, by bringing the previous champion up again."""
    ab_test: AbTestPolicy | None = None
    """Set for an A/B test: it never advances, and ends with its period."""
    required: tuple[str, ...] = ()
    """Evidence that must exist and pass before every advance; missing counts as pending."""
    required_to_promote: tuple[str, ...] = ()
    """Evidence that must exist and pass before the promotion as well."""
    required_in_shadow: tuple[str, ...] = ()
    """Evidence that must exist and pass before the shadow step gives way to the first percent."""
    alerts: Mapping[Severity, tuple[str, ...]] = field(default_factory=dict[Severity, tuple[str, ...]])
    """Names of the environment variables that hold the channels' URLs; never the URLs."""

    @property
    def ramp(self) -> tuple[Literal["shadow"] | float, ...]:
        """The steps before the promotion."""
        return tuple(step for step in self.steps if step == "shadow" or step < 100)

    @classmethod
    def of(cls, manifest: RolloutManifest) -> "Policy":
        """The policy a manifest asks for. Raises ManifestError where a freeze window is wrong."""
        guardrails = [g for g in manifest.guardrails if g.on_fail is not OnFail.WARN]
        serving = tuple(g.name for g in guardrails if g.source.startswith("serving."))
        units = (UNITS,) if manifest.step.min_units else ()
        return cls(
            steps=tuple(manifest.steps),
            min_duration=manifest.step.min_duration,
            min_units=manifest.step.min_units,
            max_unknown=manifest.max_unknown,
            on_unknown=manifest.on_unknown,
            max_duration=manifest.experiment.max_duration,
            approval=manifest.approval,
            freeze=_freeze(manifest),
            dry_run=manifest.dry_run,
            bake=manifest.bakes_for,
            holdback=manifest.holdback,
            start_timeout=manifest.validation.timeout,
            required=(*units, *(g.name for g in guardrails)),
            required_to_promote=(manifest.experiment.primary.name,),
            required_in_shadow=(*serving, AGREEMENT),
            alerts={
                "info": manifest.alerts.info,
                "warning": manifest.alerts.warning,
                "critical": manifest.alerts.critical,
            },
        )

    @classmethod
    def of_test(cls, manifest: RolloutManifest) -> "Policy":
        """The policy of an A/B test. Raises ManifestError where the manifest describes none."""
        test = manifest.ab_test
        if test is None:
            raise ManifestError(
                f"{manifest.model}: ab_test is missing, expected share and duration, such as {{share: 50, duration: 7d}}"
            )
        return replace(
            cls.of(manifest),
            steps=(test.share, 100.0),
            min_duration=test.duration,
            max_duration=test.duration + manifest.experiment.max_duration,
            ab_test=AbTestPolicy(duration=test.duration, then=test.then),
        )

    def frozen_until(self, now: datetime) -> datetime | None:
        """When the freeze in force at `now` ends, in UTC; None if nothing is frozen."""
        ends = [end for window in self.freeze if (end := window.ends(now)) is not None]
        return max(ends, default=None)


def _freeze(manifest: RolloutManifest) -> tuple[FreezeWindow, ...]:
    windows: list[FreezeWindow] = []
    for index, freeze in enumerate(manifest.freeze):
        try:
            windows.append(FreezeWindow(cron=freeze.cron, duration=freeze.duration, timezone=freeze.timezone))
        except ValueError as error:
            raise ManifestError(f"{manifest.model}: freeze[{index}]: {error}") from error
    return tuple(windows)
