"""The first event of a rollout."""

import hashlib
import math
from collections.abc import Callable
from datetime import datetime, timedelta

from pipelines.core.errors import CommandRefused, LedgerConflict, ManifestError
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.alerts import alerts_of
from pipelines.core.rollout.events import Artefact, Refused, Started, rollout_id
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.policy import Policy
from pipelines.rollouts.driver import ROUNDS
from pipelines.rollouts.journal import UNNUMBERED
from pipelines.rollouts.sides import Parts
from resources.ledger.ledger import RolloutRow
from resources.serving.contract import Capabilities, ModelArtefact


class Opening:
    """Opens rollouts; of two that open the same one, the ledger lets one and the other finds it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def start(
        self,
        manifest: RolloutManifest,
        version: str,
        champion: str | None,
        artefact: ModelArtefact,
        *,
        salt: str | None,
        policy: Policy,
        by: str,
        despite: str,
    ) -> str:
        """See `Controller.start`."""

        def started(identity: str, at: datetime) -> Started:
            return Started(
                rollout_id=identity,
                seq=UNNUMBERED,
                at=at,
                by=by,
                model=manifest.model,
                version=version,
                champion=champion,
                despite=despite,
                artefact=Artefact(uri=artefact.uri, digest=artefact.digest),
                salt=salt or identity,
                policy=policy,
                manifest_digest=hashlib.sha256(manifest.model_dump_json().encode()).hexdigest(),
            )

        return self._open(manifest.model, version, started, opens=True)

    def refuse(self, model: str, version: str, reason: str, *, by: str) -> str:
        """See `Controller.refuse`."""

        def refused(identity: str, at: datetime) -> Refused:
            return Refused(
                rollout_id=identity,
                seq=UNNUMBERED,
                at=at,
                by=by,
                model=model,
                version=version,
                reason=reason,
            )

        return self._open(model, version, refused, opens=False)

    def _open(
        self, model: str, version: str, make: Callable[[str, datetime], Started | Refused], *, opens: bool
    ) -> str:
        for _ in range(ROUNDS):
            rows = self._parts.ledger.rollouts(model)
            under_way = _under_way(rows, version) if opens else None
            if under_way is not None:
                return under_way
            identity = rollout_id(model, version, 1 + sum(row.version == version for row in rows))
            event = make(identity, _after(rows, self._parts.clock()))
            try:
                self._parts.ledger.append(event, alerts=alerts_of(fold([event]), event))
            except LedgerConflict:
                continue
            return identity
        raise LedgerConflict(f"{model}: no rollout of version {version} could be opened")


def _after(rows: tuple[RolloutRow, ...], now: datetime) -> datetime:
    """Now, and later than all of the model's rollouts so far: their order is that of their times, whoever sets the clock."""
    latest = max((time for row in rows for time in (row.started_at, row.ended_at) if time), default=None)
    return now if latest is None else max(now, latest + timedelta(microseconds=1))


def _under_way(rows: tuple[RolloutRow, ...], version: str) -> str | None:
    """The version's open rollout. Raises CommandRefused where another version's is open."""
    for row in rows:
        if row.ended_at is None and row.version == version:
            return row.rollout_id
        if row.ended_at is None:
            raise CommandRefused(
                f"{row.model}: version {row.version} is under way ({row.rollout_id});"
                f" abort it before anything is done with version {version}"
            )
    return None


def check_capabilities(manifest: RolloutManifest, can: Capabilities) -> None:
    """Raise ManifestError where the serving side cannot do what the manifest asks."""
    problem = _beyond(manifest, can)
    if problem is not None:
        raise ManifestError(f"{manifest.model}: {problem}")


def _beyond(manifest: RolloutManifest, can: Capabilities) -> str | None:
    if "shadow" in manifest.steps and not can.mirror:
        return "steps has `shadow`, but this serving side cannot mirror traffic"
    odd = [step for step in manifest.steps if step != "shadow" and not _multiple(step, can.percent_step)]
    if odd:
        return f"steps has {odd[0]:g}, but this serving side sets multiples of {can.percent_step:g} %"
    back = manifest.holdback
    if (
        manifest.bakes_for
        and not can.sticky
        and (back < can.percent_step or not _multiple(back, can.percent_step))
    ):
        step = can.percent_step
        return f"holdback is {back:g} %, but this serving side sets multiples of {step:g} %, and needs at least one"
    unit = manifest.experiment.unit
    if unit != "request" and not can.sticky:
        return f"experiment.unit is {unit!r}, but this serving side keeps no unit on a version; use `request`"
    return None


def _multiple(share: float, of: float) -> bool:
    return math.isclose(share / of, round(share / of), rel_tol=1e-9)
