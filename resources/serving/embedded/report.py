"""What is in force, for people and for the controller."""

from pipelines.errors import ServingError
from resources.serving.backend import RevisionStatus, ServiceStatus
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.predictors import Predictors, last_words
from resources.serving.embedded.state import Deployed, ServiceState
from resources.serving.embedded.supervisor import FAILED, Process


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
