"""What must be on disk before the gateway and supervisord start, and whether serving is back afterwards."""

import json
from collections.abc import Mapping

from resources.serving.embedded.artefacts import drop_bytecode, pinned_path
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.predictors import Predictors, confine, forget_unknown, tell_digest
from resources.serving.embedded.report import report
from resources.serving.embedded.store import StateStore
from resources.serving.embedded.supervisor import Supervisor
from resources.serving.envoy import bootstrap
from resources.settings import Settings


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
    (layout.discovery / "envoy.json").write_text(json.dumps(bootstrap(gateway_of(settings)), indent=1))
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
