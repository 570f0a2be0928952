"""How a model's assets, jobs and sensors are named."""

from enum import IntEnum
from typing import Any

import dagster as dg

AssetJob = Any
"""What `dg.define_asset_job` gives; Dagster does not export its type."""

MODEL_TAG = "rampgate/model"
"""On the runs of a model's jobs."""

CARRIES_ON_TAG = "rampgate/carries_on"
"""On runs that act on a model's rollout: one at a time is enough."""

MISFIT_TAG = "rampgate/misfit"
"""On runs that found a manifest that does not fit the version: only another manifest or version can help."""

VERSION_TAG = "rampgate/version"
"""On runs that start a version because it has the alias `challenger`."""

ROLLOUTS_TAG = "rampgate/rollouts"
"""On the same runs: how many rollouts the model had had."""

START_OP = "start"
"""The op of `<model>_start` whose configuration names the version."""

UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


class Turn(IntEnum):
    """Whose run leaves the queue first: the highest."""

    SCHEDULED = 0
    """What comes round for every model, whether it has a rollout or not."""
    EVIDENCE = 5
    """Looks and windows that an open rollout waits for."""
    ROLLOUT = 10
    """What acts on a rollout."""
    ORDER = 20
    """A person who wants the traffic away waits behind nothing."""

    @property
    def tags(self) -> dict[str, str]:
        """Of a job, or of a run that is asked for."""
        return {"dagster/priority": str(int(self))}


def slug(model: str) -> str:
    """The model's name where Dagster takes letters, digits and underscores only."""
    return model.replace("-", "_")


def job_name(model: str, job: str) -> str:
    """`<model>_<job>`, such as `churn_start`."""
    return f"{slug(model)}_{job}"


def key(model: str, name: str) -> dg.AssetKey:
    """`<model>/<name>`."""
    return dg.AssetKey([slug(model), name])
