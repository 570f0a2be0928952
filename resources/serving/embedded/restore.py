"""What is in force, for people and for the controller."""

import json
from collections.abc import Mapping

from pipelines.core.errors import ServingError
from resources.files import write_whole
from resources.serving.contract import RevisionStatus, ServiceStatus
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.lifecycle import drop_bytecode, pinned_path
from resources.serving.embedded.predictors import Predictors, confine, forget_unknown, last_words, tell_digest
from resources.serving.embedded.state import Deployed, ServiceState, StateStore
from resources.serving.embedded.supervisor import FAILED, Process, Supervisor
from resources.serving.envoy.bootstrap import bootstrap
from resources.settings import Settings


def report(state: ServiceState, gateway: EmbeddedGateway, predictors: Predictors) -> ServiceStatus:
    """The service's status. A part that does not answer makes its revisions not ready, with its words."""
    canary = state.canary
    percent = canary.percent if canary else 0.0
    return ServiceStatus(
        service=state.service,
        stable=_revision(state.stable, 100 - percent, gateway, predictors) if state.stable else None,
        canary=_revision(canary.revision, percent, gateway, predictors) if canary else None,
        salt=canary.salt if canary else "",
        mirror=canary.mirror if canary else False,
        lapse=canary.lapse if canary else None,
    )


def _revision(
    revision: Deployed, percent: float, gateway: EmbeddedGateway, predictors: Predictors
) -> RevisionStatus:
    message = _trouble(revision, gateway, predictors)
    return RevisionStatus(
        name=revision.name, version=revision.version, percent=percent, ready=not message, message=message
    )


def _trouble(revision: Deployed, gateway: EmbeddedGateway, predictors: Predictors) -> str:
    """Why it is not ready, or nothing. One healthy replica makes a revision ready, as on Kubernetes."""
    try:
        if gateway.healthy_ports(revision):
            return ""
        processes = predictors.processes(revision)
    except ServingError as error:
        return str(error)
    return f"no healthy replica: {', '.join(map(_words, processes)) or 'no process'}"


def _words(process: Process) -> str:
    """Its state, and the last thing that a process which does not stay up said: there is the reason."""
    state = f"{process.name} is {process.state} ({process.description})"
    return f"{state}: {last_words(process.log, 1)}" if process.state in FAILED else state


# What must be on disk before the gateway and supervisord start, and whether serving is back afterwards.


def restore(settings: Settings, allow: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Write the gateway's files from the desired states and drop program files that nobody owns.

    `allow` is what may run code when each model is loaded, for predictors deployed before they were told. The gateway then starts with the routes that were in force, and supervisord with every predictor.
    """
    layout = Layout(settings.home)
    layout.create()
    store = StateStore(layout.states)
    gateway = EmbeddedGateway(settings, store)
    gateway.publish("clusters")
    gateway.publish("routes")
    write_whole(layout.discovery / "envoy.json", json.dumps(bootstrap(gateway_of(settings)), indent=1))
    revisions = [revision for state in store.read_all() for revision in state.deployed()]
    forget_unknown(layout, revisions)
    for revision in revisions:
        confine(layout, revision)
        if tell_digest(layout, revision, (allow or {}).get(revision.model, ())):
            place = pinned_path(
                layout.models, model=revision.model, version=revision.version, digest=revision.digest
            )
            drop_bytecode(place, revision.digest)


def unserved(settings: Settings) -> str | None:
    """Why a service that has a stable revision cannot answer yet; None when all can."""
    layout = Layout(settings.home)
    store = StateStore(layout.states)
    gateway = EmbeddedGateway(settings, store)
    predictors = Predictors(layout, Supervisor(layout.socket))
    stable = (report(state, gateway, predictors).stable for state in store.read_all())
    return next((each.message for each in stable if each is not None and not each.ready), None)
