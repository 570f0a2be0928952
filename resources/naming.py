"""How a model's assets, jobs and sensors are named."""

import dagster as dg

CARRIES_ON_TAG = "rampgate/carries_on"
"""On runs that act on a model's rollout: one at a time is enough."""
MISFIT_TAG = "rampgate/misfit"
"""On runs that found a manifest that does not fit the version: only another manifest or version can help."""
VERSION_TAG = "rampgate/version"
"""On runs that start a version because it has the alias `challenger`."""
ROLLOUTS_TAG = "rampgate/rollouts"
"""On the same runs: how many rollouts the model had had."""
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def slug(model: str) -> str:
    """The model's name where Dagster takes letters, digits and underscores only."""
    return model.replace("-", "_")


def key(model: str, name: str) -> dg.AssetKey:
    """`<model>/<name>`."""
    return dg.AssetKey([slug(model), name])
