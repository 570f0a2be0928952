"""Notices a new challenger in the registry."""

import dagster as dg

from pipelines.errors import RampgateError
from pipelines.manifest.load import Model
from resources.containment import contained
from resources.naming import MISFIT_TAG, slug
from resources.starting import held_up
from resources.systems import Systems

CHALLENGER = "challenger"
VERSION_TAG = "rampgate/version"
MANIFEST_TAG = "rampgate/manifest"
"""Attempts count for one state of the manifest: one that is mended gets its own."""
STATUS_TAG = "rampgate.status"
ATTEMPTS = 3
"""Start runs for one version that may fail (a registry that went away) before a person is needed."""


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
            if systems.ledger.rollouts(model.name, open_only=True):
                return dg.SkipReason("a rollout is open; the next one starts when it has ended")
            challenger = systems.registry.version_with_alias(model.name, CHALLENGER)
            if challenger is None:
                return dg.SkipReason("no version has the alias `challenger`")
            status = challenger.tags.get(STATUS_TAG)
            if status:
                return dg.SkipReason(
                    f"version {challenger.version} is tagged `{STATUS_TAG}` = {status};"
                    " clear the tag to try it again"
                )
            if reason := held_up(systems, model, challenger.version):
                return dg.SkipReason(reason)
        except RampgateError as error:
            return dg.SkipReason(f"cannot tell: {error}")
        return _request(
            context, job_name, model, challenger.version, len(systems.ledger.rollouts(model.name))
        )

    return sensor


def _request(
    context: dg.SensorEvaluationContext, job_name: str, model: Model, version: str, rollouts: int
) -> dg.SkipReason | dg.RunRequest:
    """`run_key` dedupes for ever, so it counts the rollouts so far and the failed attempts with this manifest."""
    tags = {VERSION_TAG: version, "rampgate/rollouts": str(rollouts)}
    runs = context.instance.get_runs(dg.RunsFilter(job_name=job_name, tags=tags))
    if any(not run.is_finished for run in runs):
        return dg.SkipReason(f"version {version} is being started")
    manifest = model.digest[:12]
    runs = [run for run in runs if run.tags.get(MANIFEST_TAG) == manifest]
    if any(run.tags.get(MISFIT_TAG) for run in runs):
        return dg.SkipReason(
            f"rollout.yaml does not fit version {version}, see the failed run; tried again when it has changed"
        )
    if len(runs) >= ATTEMPTS:
        return dg.SkipReason(f"version {version} could not be started in {ATTEMPTS} runs; see their logs")
    candidate = f"{slug(model.name)}__candidate"
    return dg.RunRequest(
        run_key=f"{version}:{rollouts}:{manifest}:{len(runs)}",
        run_config={"ops": {candidate: {"config": {"version": version}}}},
        tags=tags | {MANIFEST_TAG: manifest},
    )
