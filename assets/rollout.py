"""The rollout itself: a challenger is started, and carried on from one decision to the next."""

from typing import Any

import dagster as dg

from pipelines.errors import CommandRefused, ManifestError, VersionRefused, Withdrawn
from pipelines.manifest.load import Model
from resources.naming import MISFIT_TAG, VERSION_TAG, key
from resources.platform_alerts import platform_alert
from resources.reports import write_report
from resources.rollout_metadata import decision_metadata
from resources.rollouts import open_rollout
from resources.starting import Mode, carry_on, start
from resources.systems import Systems

GROUP = "rollout"


class CandidateConfig(dg.Config):
    """Which version to roll out."""

    version: str
    """A registered version, with signature and input example."""
    mode: Mode = Mode.rollout
    """`rollout`, or `ab_test`: held at the share of the manifest's `ab_test` for its duration."""
    against: str = ""
    """The served version, to start although the registry says that another one is the champion, or none."""


def candidate(model: Model) -> dg.AssetsDefinition:
    """The asset that validates a version and starts its rollout."""

    @dg.asset(
        key=key(model.name, "candidate"),
        deps=[key(model.name, "model_version")] if model.rollout.training else [],
        group_name="registry",  # in `rollout` it would make a circle of the groups' graph
        kinds={"mlflow"},
    )
    def validate(
        context: dg.AssetExecutionContext, config: CandidateConfig, systems: dg.ResourceParam[Systems]
    ) -> dg.MaterializeResult[Any]:
        """A version that may be rolled out: its artefact pinned by digest, its format allowed, its signature and
        input example there.

        A version that lacks one of these is refused before any traffic, with the reason here, on the version's
        `rampgate.reason` tag in MLflow, and in an alert. A manifest that does not fit the version is no verdict on it:
        that is said here and in an alert, and the version is tried again when the manifest has changed.
        """
        try:
            begun = start(
                systems,
                model,
                config.version,
                mode=config.mode,
                against=config.against,
                by_alias=VERSION_TAG in context.run.tags,
            )
        except Withdrawn as withdrawn:
            return dg.MaterializeResult(metadata={"status": str(withdrawn)})
        except VersionRefused as refused:
            _report_refusal(systems, model)
            raise dg.Failure(description=str(refused), allow_retries=False) from refused
        except ManifestError as wrong:
            _report_manifest(context, systems, model, config.version, wrong)
            raise dg.Failure(description=str(wrong), allow_retries=False) from wrong
        except CommandRefused as refused:
            raise dg.Failure(description=str(refused), allow_retries=False) from refused
        context.log.info(f"rollout {begun.rollout_id}")
        return dg.MaterializeResult(
            metadata={
                "rollout": begun.rollout_id,
                "version": config.version,
                "digest": begun.artefact.digest,
                "champion": begun.champion or "none: this is the model's first version",
                "in MLflow": dg.MetadataValue.url(systems.registry.link(model.name, config.version)),
            }
        )

    return validate


def _report_manifest(
    context: dg.AssetExecutionContext, systems: Systems, model: Model, version: str, wrong: ManifestError
) -> None:
    """Said once for each manifest, however often it is tried."""
    context.instance.add_run_tags(context.run.run_id, {MISFIT_TAG: "true"})
    platform_alert(
        systems.ledger,
        topic=f"manifest:{model.name}",
        title=f"{model.name} version {version}: not started, the manifest is wrong",
        body=str(wrong),
        model=model.name,
    )


def _report_refusal(systems: Systems, model: Model) -> None:
    """The run fails here, before the asset that writes reports: the alert's link must open one all the same."""
    refused = systems.ledger.latest(model.name)
    if refused is not None:
        write_report(systems, refused.rollout_id)


def rollout(model: Model) -> dg.AssetsDefinition:
    """The asset that carries the open rollout on."""

    @dg.asset(
        key=key(model.name, "rollout"),
        deps=[key(model.name, name) for name in ("candidate", "data_quality", "drift", "experiment")],
        group_name=GROUP,
        kinds={"kserve"},
    )
    def advance(
        context: dg.AssetExecutionContext, systems: dg.ResourceParam[Systems]
    ) -> dg.MaterializeResult[Any]:
        """Where the rollout is, and why.

        Each materialization is a decision that changed something: deployed, validated by the real predictor, a
        larger share, promoted, rolled back. The decision is taken on the evidence in the ledger (data quality,
        drift, experiment, serving) and each action is written there before and after it is done, so that
        a run that dies is simply continued by the next one.
        """
        state = open_rollout(systems.ledger, model.name)
        if state is None:
            return dg.MaterializeResult(metadata={"status": "no rollout is open"})
        decision = carry_on(systems, model, state.rollout_id)
        context.log.info(f"{decision.kind}: {decision.reason}")
        return dg.MaterializeResult(metadata=decision_metadata(systems, state.rollout_id, decision))

    return advance
