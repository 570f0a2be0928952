"""The rollout itself: a job starts one for a challenger, and an asset shows where it is."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines.core.errors import CommandRefused, CorruptLedger, ManifestError, VersionRefused, Withdrawn
from pipelines.core.manifest.load import Model
from pipelines.reports.configured import ReportsResource
from pipelines.reports.metadata import decision_metadata, report_metadata, started_metadata
from pipelines.reports.report import Reports, write_report
from pipelines.rollouts.configured import RolloutsResource
from pipelines.rollouts.naming import MISFIT_TAG, START_OP, VERSION_TAG, key, slug
from pipelines.rollouts.open_rollout import open_rollout
from pipelines.rollouts.start import Mode, RolloutSystems, carry_on, start, tell_misfit
from resources.configured import LinksResource
from resources.links import Links

GROUP = "rollout"


class StartConfig(dg.Config):
    """Which version to roll out."""

    version: str
    """A registered version, with signature and input example."""
    mode: Mode = Mode.rollout
    """`rollout`, or `ab_test`: held at the share of the manifest's `ab_test` for its duration."""
    against: str = ""
    """The served version, to start although the registry says that another one is the champion, or none."""


def start_job(model: Model, tags: Mapping[str, str]) -> dg.JobDefinition:
    """The job that validates a version, starts its rollout and writes its report.

    What it did is seen on the assets `rollout` and `rollout_report`, beside what later runs do.
    """
    name = f"{slug(model.name)}_start"
    begin, go_on, tell = _start_op(model, name), _carry_on_op(model, name), _report_op(model, name)

    @dg.job(
        name=name,
        description="Validate a version and start its rollout.",
        executor_def=dg.in_process_executor,
        tags=tags,
    )
    def job() -> None:
        tell.alias("report")(go_on.alias("carry_on")(begin.alias(START_OP)()))

    return job


def _start_op(model: Model, name: str) -> dg.OpDefinition:
    @dg.op(name=f"{name}_{START_OP}", out=dg.Out(dg.Nothing))
    def begin(
        context: dg.OpExecutionContext,
        config: StartConfig,
        rollouts: RolloutsResource,
        links: LinksResource,
        reports: ReportsResource,
    ) -> None:
        """A version that may be rolled out: its artefact pinned by digest, its format allowed, its signature and
        input example there.

        A version that lacks one of these is refused before any traffic, with the reason here, on the version's
        `rampgate.reason` tag in MLflow, and in an alert. A manifest that does not fit the version is no verdict on it:
        that is said here and in an alert, and the version is tried again when the manifest has changed.
        """
        asset = key(model.name, "rollout")
        by_alias = VERSION_TAG in context.run.tags
        systems = rollouts.get()
        try:
            begun = start(
                systems, model, config.version, mode=config.mode, against=config.against, by_alias=by_alias
            )
        except Withdrawn as withdrawn:
            context.log_event(dg.AssetObservation(asset, metadata={"status": str(withdrawn)}))
            return
        except VersionRefused as refused:
            _report_refusal(reports.get(), model)
            raise dg.Failure(description=str(refused), allow_retries=False) from refused
        except ManifestError as wrong:
            context.instance.add_run_tags(context.run.run_id, {MISFIT_TAG: "true"})
            tell_misfit(systems.ledger, model, config.version, wrong)
            raise dg.Failure(description=str(wrong), allow_retries=False) from wrong
        except CommandRefused as refused:
            raise dg.Failure(description=str(refused), allow_retries=False) from refused
        context.log.info(f"rollout {begun.rollout_id}")
        context.log_event(dg.AssetMaterialization(asset, metadata=started_metadata(links.get(), begun)))

    return begin


def _carry_on_op(model: Model, name: str) -> dg.OpDefinition:
    @dg.op(name=f"{name}_carry_on", ins={"started": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def go_on(context: dg.OpExecutionContext, rollouts: RolloutsResource, links: LinksResource) -> None:
        """The first decisions: deployed, validated by the real predictor, and the first step's share."""
        metadata = _carried_on(context, rollouts.get(), links.get(), model)
        context.log_event(dg.AssetMaterialization(key(model.name, "rollout"), metadata=metadata))

    return go_on


def _report_op(model: Model, name: str) -> dg.OpDefinition:
    @dg.op(name=f"{name}_report", ins={"carried_on": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def tell(context: dg.OpExecutionContext, reports: ReportsResource) -> None:
        """The page of the rollout that was started, which alerts link to."""
        try:
            metadata = report_metadata(reports.get(), model.name)
        except CorruptLedger as error:
            raise dg.Failure(description=f"the report cannot be written: {error}") from error
        context.log_event(dg.AssetMaterialization(key(model.name, "rollout_report"), metadata=metadata))

    return tell


def _report_refusal(reports: Reports, model: Model) -> None:
    """The run fails here, before the op that writes reports: the alert's link must open one all the same."""
    refused = reports.ledger.latest(model.name)
    if refused is not None:
        write_report(reports, refused.rollout_id)


def rollout(model: Model) -> dg.AssetsDefinition:
    """The asset that carries the open rollout on."""
    evidence = [key(model.name, name) for name in ("data_quality", "drift", "experiment")]
    trained = [key(model.name, "model_version")] if model.rollout.training else []

    @dg.asset(key=key(model.name, "rollout"), deps=[*trained, *evidence], group_name=GROUP, kinds={"kserve"})
    def advance(
        context: dg.AssetExecutionContext, rollouts: RolloutsResource, links: LinksResource
    ) -> dg.MaterializeResult[Any]:
        """Where the rollout is, and why.

        Each materialization is a decision that changed something: started, deployed, validated by the real
        predictor, a larger share, promoted, rolled back. The decision is taken on the evidence in the ledger (data
        quality, drift, experiment, serving) and each action is written there before and after it is done, so that
        a run that dies is simply continued by the next one.
        """
        metadata = _carried_on(context, rollouts.get(), links.get(), model)
        return dg.MaterializeResult(metadata=metadata)

    return advance


def _carried_on(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    systems: RolloutSystems,
    links: Links,
    model: Model,
) -> dict[str, dg.MetadataValue]:
    state = open_rollout(systems.ledger, model.name)
    if state is None:
        return {"status": dg.MetadataValue.text("no rollout is open")}
    decision = carry_on(systems, model, state.rollout_id)
    context.log.info(f"{decision.kind}: {decision.reason}")
    return decision_metadata(links, systems.controller.state(state.rollout_id), decision)
