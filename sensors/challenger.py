"""Notices a new challenger in the registry."""

import time
from typing import assert_never

import dagster as dg

from pipelines.errors import CommandRefused, RampgateError
from pipelines.manifest.load import Model
from pipelines.manifest.model import OnNewChallenger
from pipelines.rollout.events import Order
from pipelines.rollout.ids import named
from pipelines.rollout.sides import CHAMPION
from pipelines.rollout.state import RolloutState
from resources.containment import contained
from resources.controller import CHALLENGER, ROLLOUT_TAG, STATUS_TAG
from resources.naming import MISFIT_TAG, ROLLOUTS_TAG, START_OP, UNFINISHED, VERSION_TAG, slug
from resources.platform_alerts import platform_alert
from resources.registry import Registration, VersionInfo
from resources.rollouts import open_rollout
from resources.starting import held_up
from resources.systems import Systems
from sensors.rollout import MOST_FAILURES, pause_after_failures

MANIFEST_TAG = "rampgate/manifest"
"""Attempts count for one state of the manifest: one that is mended gets its own."""
BY = "challenger_sensor"


def challenger_sensor(model: Model, job_name: str) -> dg.SensorDefinition:
    """Starts a rollout when a version gets the alias `challenger`."""

    @dg.sensor(
        name=f"{slug(model.name)}_challenger_sensor",
        job_name=job_name,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Starts a rollout when a version of {model.name} gets the alias `challenger` in MLflow. A version that"
            " was rolled back or refused is not tried again until its tag `rampgate.status` is cleared."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]
    ) -> dg.SkipReason | dg.RunRequest:
        where = f"{model.name}'s challenger sensor"
        with contained(systems.ledger, context.log, where=where, model=model.name) as trouble:
            return evaluated(context, systems)
        return dg.SkipReason(trouble.words)

    def evaluated(context: dg.SensorEvaluationContext, systems: Systems) -> dg.SkipReason | dg.RunRequest:
        try:
            challenger = systems.registry.version_with_alias(model.name, CHALLENGER)
            under_way = open_rollout(systems.ledger, model.name)
            if under_way is not None:
                return dg.SkipReason(_beside(systems, model, under_way, challenger))
            if challenger is None:
                return dg.SkipReason("no version has the alias `challenger`")
            if (reason := _not_now(systems, model, challenger)) is not None:
                return dg.SkipReason(reason)
            rollouts = len(systems.ledger.rollouts(model.name))
        except RampgateError as error:
            return dg.SkipReason(f"cannot tell: {error}")
        return _request(context, job_name, model, challenger.version, rollouts)

    return sensor


def _not_now(systems: Systems, model: Model, challenger: VersionInfo) -> str | None:
    """Why the version is not started; None where it is. Raises RampgateError where that cannot be told."""
    if status := ended_before(challenger):
        return (
            f"version {challenger.version} is tagged `{STATUS_TAG}` = {status}; clear the tag to try it again"
        )
    if reason := held_up(systems, model, challenger.version):
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


def _beside(systems: Systems, model: Model, under_way: RolloutState, challenger: VersionInfo | None) -> str:
    """What becomes of a challenger while a rollout is open."""
    if challenger is None or challenger.version == under_way.version:
        return "a rollout is open; the next one starts when it has ended"
    is_served = CHAMPION in challenger.aliases or challenger.version == under_way.champion
    if ended_before(challenger) or is_served:
        return f"a rollout is open; version {challenger.version} does not start after it"
    gives_way = _gives_way(model, under_way, challenger)
    fate = "is aborted and gives way" if gives_way else "comes first; the new one starts when it has ended"
    told = f"the rollout of version {under_way.version} ({under_way.rollout_id}) {fate}"
    _tell(systems, model, challenger, topic=f"challenger:{under_way.rollout_id}", body=told)
    if gives_way:
        _abort(systems, under_way, challenger)
    return f"version {challenger.version} is a challenger: {told}"


def _gives_way(model: Model, under_way: RolloutState, challenger: VersionInfo) -> bool:
    match model.rollout.on_new_challenger:
        case OnNewChallenger.WAIT:
            return False
        case OnNewChallenger.REPLACE:
            ending = under_way.winding_up or under_way.ordered is not None
            test = under_way.policy.ab_test is not None
            return not ending and not test and challenger.status is Registration.READY
        case _:
            assert_never(model.rollout.on_new_challenger)


def _abort(systems: Systems, under_way: RolloutState, challenger: VersionInfo) -> None:
    reason = f"version {challenger.version} has the alias `challenger` now (on_new_challenger: replace)"
    try:
        systems.controller.command(under_way.rollout_id, Order.ABORT, by=BY, reason=reason)
    except CommandRefused:
        return  # it is ending already, or has ended


def _tell(systems: Systems, model: Model, challenger: VersionInfo, *, topic: str, body: str) -> None:
    """Once for each version and text. Raises LedgerError."""
    platform_alert(
        systems.ledger,
        topic=topic,
        title=f"{model.name} version {challenger.version} has the alias `challenger`, and is not started now",
        body=body,
        model=model.name,
        once=f"{challenger.version}:{body}",
    )


def _request(
    context: dg.SensorEvaluationContext, job_name: str, model: Model, version: str, rollouts: int
) -> dg.SkipReason | dg.RunRequest:
    """`run_key` dedupes for ever, so it counts the rollouts so far and the attempts at this one with this manifest.

    A run that fails for a reason that is not the version's (a registry or an artefact store that is away) is asked for
    again, with growing pauses, for as long as the version is the challenger.
    """
    manifest = model.digest[:12]
    tags = {VERSION_TAG: version, ROLLOUTS_TAG: str(rollouts)}
    unfinished = dg.RunsFilter(job_name=job_name, tags=tags, statuses=list(UNFINISHED))
    if context.instance.get_run_ids(unfinished, limit=1):
        return dg.SkipReason(f"version {version} is being started")
    tags |= {MANIFEST_TAG: manifest}
    mine = dg.RunsFilter(job_name=job_name, tags=tags)
    records = context.instance.get_run_records(mine, limit=MOST_FAILURES)
    if any(record.dagster_run.tags.get(MISFIT_TAG) for record in records):
        return dg.SkipReason(
            f"rollout.yaml does not fit version {version}, see the failed run; tried again when it has changed"
        )
    if (wait := pause_after_failures(records, time.time())) > 0:
        return dg.SkipReason(
            f"version {version} could not be started yet; tried again in {wait:.0f} s, see the last run's log"
        )
    return dg.RunRequest(
        run_key=f"{version}:{rollouts}:{manifest}:{context.instance.get_runs_count(mine)}",
        run_config={"ops": {START_OP: {"config": {"version": version}}}},
        tags=tags,
    )
