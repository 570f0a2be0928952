"""How a model's assets, jobs and sensors are named."""

import dagster as dg


def slug(model: str) -> str:
    """The model's name where Dagster takes letters, digits and underscores only."""
    return model.replace("-", "_")


def key(model: str, name: str) -> dg.AssetKey:
    """`<model>/<name>`."""
    return dg.AssetKey([slug(model), name])
