"""Versions: trained by the manifest's recipe, and validated when one becomes the challenger."""

import importlib
from collections.abc import Callable
from typing import Any

import dagster as dg

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import Model
from pipelines.rollouts.actions import CHALLENGER
from pipelines.rollouts.naming import key
from resources.configured import LinksResource, RegistryResource

GROUP = "registry"


class TrainingConfig(dg.Config):
    """What to train, and what to do with the version."""

    params: dict[str, Any] = {}
    """The recipe's own parameters; it names what is allowed when one is wrong."""
    challenger: bool = False
    """Give the new version the alias `challenger`, which starts its rollout."""


def model_version(model: Model, recipe: str) -> dg.AssetsDefinition:
    """The asset that trains and registers a version with the manifest's recipe."""

    @dg.asset(key=key(model.name, "model_version"), group_name=GROUP, kinds={"mlflow", "scikitlearn"})
    def train(
        config: TrainingConfig, registry: RegistryResource, links: LinksResource
    ) -> dg.MaterializeResult[Any]:
        """A new version of the model, trained and registered in MLflow with signature and input example.

        A registered version does nothing by itself: it gets traffic when somebody gives it the alias `challenger`
        (here, in MLflow's UI, or from any pipeline that registers versions).
        """
        trained = _load(recipe)(model.name, config.params, uri=registry.get().uri)
        if config.challenger:
            registry.get().set_alias(model.name, CHALLENGER, trained.version)
        return dg.MaterializeResult(
            metadata={
                "version": trained.version,
                "params": dg.MetadataValue.json(config.params),
                "in MLflow": dg.MetadataValue.url(links.get().version(model.name, trained.version)),
                **{name: float(value) for name, value in trained.metrics.items()},
            }
        )

    return train


def _load(recipe: str) -> Callable[..., Any]:
    module, _, function = recipe.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ManifestError(f"training.recipe == {recipe!r} cannot be imported: {error}") from error
