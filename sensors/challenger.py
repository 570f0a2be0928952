"""Notices a new challenger in the registry."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, assert_never

import dagster as dg

from pipelines.core.errors import CommandRefused, RampgateError
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Order, named
from pipelines.core.rollout.sides import CHAMPION
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import OnNewChallenger
from pipelines.rollouts.actions import CHALLENGER, ROLLOUT_TAG, STATUS_TAG
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.naming import (
    MISFIT_TAG,
    ROLLOUTS_TAG,
    START_OP,
    UNFINISHED,
    VERSION_TAG,
    AssetJob,
    job_name,
)
from pipelines.rollouts.open_rollout import read_rollout
from pipelines.rollouts.start import held_up
from resources.configured import LedgerResource, RegistryResource
from resources.ledger.ledger import Ledger, RolloutRow
from resources.notifier import contained, platform_alert
from resources.registry.client import Registration, VersionInfo
from resources.registry.registry import Registry
from sensors.rollout import MOST_FAILURES, pause_after_failures
from sensors.ticks import TICK, Found, look_at_all, looked

MANIFEST_TAG = "rampgate/manifest"
"""Attempts count for one state of the manifest: one that is mended gets its own."""

BY, NAME = "challenger_sensor", "challenger sensor"

EVERY = timedelta(seconds=2)
"""How often MLflow is asked who has the alias."""

AGAIN = timedelta(seconds=10)
"""How often about the same challenger of the same model."""


def challenger_sensor(
    models: Sequence[Model], jobs: Sequence[AssetJob] = (), *, tick: timedelta = TICK
) -> dg.SensorDefinition:
    """Starts a rollout when a version of one of the models gets the alias `challenger`; `jobs` start them."""

    @dg.sensor(
        name="challenger_sensor",
        jobs=jobs,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Starts a rollout when a version of a model gets the alias `challenger` in MLflow. A version that"
            " was rolled back or refused is not tried again until its tag `rampgate.status` is cleared."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        ledger: LedgerResource,
        registry: RegistryResource,
        controller: ControllerResource,
    ) -> dg.SkipReason | dg.SensorResult:
        challengers = Challengers(context, ledger.get(), registry.get(), controller, models)
        otherwise = "no version has the alias `challenger`"
        return looked(challengers.look, every=EVERY, tick=tick, otherwise=otherwise)

    return sensor


class Answered(NamedTuple):
    """What was said of a challenger, and what it was said about."""

    version: str
    under_way: str
    """The id of the model's open rollout; empty where there is none."""
    at: float
    words: str


class Challengers:
    """One tick's view: a model whose challenger and rollout are the same as a moment ago is not asked about again."""

    def __init__(
        self,
        context: dg.SensorEvaluationContext,
        ledger: Ledger,
        registry: Registry,
        controller: ControllerResource,
        models: Sequence[Model],
    ) -> None:
        self._context, self._models = context, models
        self._ledger, self._registry, self._controller = ledger, registry, controller
        self._answered: dict[str, Answered] = {}

    def look(self) -> Found:
        """One call of MLflow and one query of the ledger; more only for models with a challenger."""
        return look_at_all(self._context, self._ledger, NAME, self._answers)

    def _answers(self) -> Found:
        versions = self._registry.aliased(CHALLENGER)
        open_rows = {row.model: row for row in self._ledger.rollouts(open_only=True)}
        found = [
            self._evaluated(model, versions[model.name], open_rows.get(model.name))
            for model in self._models
            if model.name in versions
        ]
        requests = tuple(each for each in found if isinstance(each, dg.RunRequest))
        return Found(requests, tuple(each for each in found if isinstance(each, str) and each))

    def _evaluated(self, model: Model, version: str, row: RolloutRow | None) -> dg.RunRequest | str:
        """A run to be asked for, or why there is none; empty where the version is the one that is rolled out."""
        if row is not None and row.version == version:
            return ""
        under_way, known = "" if row is None else row.rollout_id, self._answered.get(model.name)
        same = known is not None and (known.version, known.under_way) == (version, under_way)
        if known is not None and same and time.monotonic() < known.at + AGAIN.total_seconds():
            return known.words
        found = self._asked(model, version, row)
        if isinstance(found, str):
            self._answered[model.name] = Answered(version, under_way, time.monotonic(), found)
        return found

    def _asked(self, model: Model, version: str, row: RolloutRow | None) -> dg.RunRequest | str:
        """Whatever goes wrong with one model is said, and delays no other."""
        ledger, where = self._ledger, f"{model.name}'s {NAME}"
        with contained(ledger, self._context.log, where=where, model=model.name) as trouble:
            try:
                challenger = self._registry.version(model.name, version)
                if challenger is None:
                    return f"{model.name}: version {version} is gone from MLflow"
                if row is not None:
                    under_way = read_rollout(ledger, row.rollout_id)
                    return _beside(ledger, self._controller, model, under_way, challenger)
                if (reason := _not_now(ledger, self._controller, model, challenger)) is not None:
                    return f"{model.name}: {reason}"
                rollouts = len(ledger.rollouts(model.name))
            except RampgateError as error:
                return f"{model.name}: cannot tell: {error}"
            return _request(self._context, model, challenger.version, rollouts)
        return trouble.words


def _not_now(
    ledger: Ledger, controller: ControllerResource, model: Model, challenger: VersionInfo
) -> str | None:
    """Why the version is not started; None where it is. Raises RampgateError where that cannot be told."""
    if status := ended_before(challenger):
        return (
            f"version {challenger.version} is tagged `{STATUS_TAG}` = {status}; clear the tag to try it again"
        )
    if reason := held_up(controller.get(), ledger, model, challenger.version):
        return reason
    match challenger.status:
        case Registration.READY | Registration.FAILED:
            return None  # the run refuses one that failed, with tag and alert
        case Registration.PENDING | Registration.UNKNOWN:
            return f"version {challenger.version} is not READY in MLflow yet: {challenger.status}"
        case _:
            assert_never(challenger.status)


def ended_before(version: VersionInfo) -> str | None:
    """How this very version's last rollout ended: tags that came along with a copied version are another's."""
    of = version.tags.get(ROLLOUT_TAG)
    if of is not None and not _is_of(of, version):
        return None
    return version.tags.get(STATUS_TAG)


def _is_of(rollout_id: str, version: VersionInfo) -> bool:
    """What a person wrote in place of an id counts as said of this version."""
    try:
        return named(rollout_id) == (version.model, version.version)
    except ValueError:
        return True


def _beside(
    ledger: Ledger,
    controller: ControllerResource,
    model: Model,
    under_way: RolloutState,
    challenger: VersionInfo,
) -> str:
    """What becomes of a challenger while a rollout of another version is open."""
    is_served = CHAMPION in challenger.aliases or challenger.version == under_way.champion
    if ended_before(challenger) or is_served:
        return f"{model.name}: a rollout is open; version {challenger.version} does not start after it"
    gives_way = _gives_way(model, under_way, challenger)
    fate = _fate(under_way, gives_way=gives_way)
    told = f"the rollout of version {under_way.version} ({under_way.rollout_id}) {fate}"
    _tell(ledger, model, challenger, topic=f"challenger:{under_way.rollout_id}", body=told)
    if gives_way:
        _make_way(controller.get(), under_way, challenger)
    return f"{model.name} version {challenger.version} is a challenger: {told}"


def _fate(under_way: RolloutState, *, gives_way: bool) -> str:
    if not gives_way:
        return "comes first; the new one starts when it has ended"
    return (
        "ends its bake and stays promoted" if under_way.phase is Phase.BAKING else "is aborted and gives way"
    )


def _gives_way(model: Model, under_way: RolloutState, challenger: VersionInfo) -> bool:
    match model.rollout.on_new_challenger:
        case OnNewChallenger.WAIT:
            return False
        case OnNewChallenger.REPLACE:
            ending = under_way.winding_up or under_way.ordered is not None
            stays = under_way.policy.ab_test is not None or under_way.policy.undoes
            return not ending and not stays and challenger.status is Registration.READY
        case _:
            assert_never(model.rollout.on_new_challenger)


def _make_way(controller: Controller, under_way: RolloutState, challenger: VersionInfo) -> None:
    """A rollout is aborted; one that is promoted and bakes stays so, and ends its bake."""
    reason = f"version {challenger.version} has the alias `challenger` now (on_new_challenger: replace)"
    order = Order.FORCE_PROMOTE if under_way.phase is Phase.BAKING else Order.ABORT
    try:
        controller.command(under_way.rollout_id, order, by=BY, reason=reason)
    except CommandRefused:
        return  # it is ending already, or has ended


def _tell(ledger: Ledger, model: Model, challenger: VersionInfo, *, topic: str, body: str) -> None:
    """Once for each version and text. Raises LedgerError."""
    platform_alert(
        ledger,
        topic=topic,
        title=f"{model.name} version {challenger.version} has the alias `challenger`, and is not started now",
        body=body,
        model=model.name,
        once=f"{challenger.version}:{body}",
    )


def _request(
    context: dg.SensorEvaluationContext, model: Model, version: str, rollouts: int
) -> dg.RunRequest | str:
    """`run_key` dedupes for ever, so it counts the rollouts so far and the attempts at this one with this manifest.

    A run that fails for a reason that is not the version's (a registry or an artefact store that is away) is asked for
    again, with growing pauses, for as long as the version is the challenger.
    """
    job, manifest, named_version = (
        job_name(model.name, "start"),
        model.digest[:12],
        f"{model.name} version {version}",
    )
    tags = {VERSION_TAG: version, ROLLOUTS_TAG: str(rollouts)}
    unfinished = dg.RunsFilter(job_name=job, tags=tags, statuses=list(UNFINISHED))
    if context.instance.get_run_ids(unfinished, limit=1):
        return f"{named_version} is being started"
    tags |= {MANIFEST_TAG: manifest}
    mine = dg.RunsFilter(job_name=job, tags=tags)
    records = context.instance.get_run_records(mine, limit=MOST_FAILURES)
    if any(record.dagster_run.tags.get(MISFIT_TAG) for record in records):
        return (
            f"rollout.yaml does not fit {named_version}, see the failed run; tried again when it has changed"
        )
    if (wait := pause_after_failures(records, time.time())) > 0:
        return (
            f"{named_version} could not be started yet; tried again in {wait:.0f} s, see the last run's log"
        )
    return dg.RunRequest(
        job_name=job,
        run_key=f"{model.name}:{version}:{rollouts}:{manifest}:{context.instance.get_runs_count(mine)}",
        run_config={"ops": {START_OP: {"config": {"version": version}}}},
        tags=tags,
    )
