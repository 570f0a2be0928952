"""One observation of a service: the InferenceService and what the cluster made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from resources.serving.backend import RevisionStatus
from resources.serving.kserve import knative_view, standard_view
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.knative_view import KnativeView
from resources.serving.kserve.mode import Installation, Mode, check_split, detect
from resources.serving.kserve.service import checked_predictor
from resources.serving.kserve.standard_view import StandardView


@dataclass(frozen=True)
class Observers:
    """Looks at one service in whatever mode it runs."""

    cluster: Cluster
    service: str
    installed: Callable[[], Installation]

    def observe(self, *, splitting: bool = False) -> tuple[KnativeView | StandardView, str]:
        """The observation and the object's resourceVersion (empty where there is no object).

        Raises ServingError where the mode is not known or, if `splitting`, cannot split traffic.
        """
        isvc = self.cluster.read(self.service)
        if isvc is None:
            return KnativeView(service=self.service), ""
        recorded = (isvc.get("status") or {}).get("deploymentMode", "")
        knative_for_sure = recorded in ("Knative", "Serverless")
        mode = Mode.KNATIVE if knative_for_sure else self._detect(isvc, splitting=splitting)
        if splitting:
            checked_predictor(isvc, self.service)
        read = self._knative if mode is Mode.KNATIVE else self._standard
        return read(isvc), isvc["metadata"]["resourceVersion"]

    def since(self, view: KnativeView | StandardView, revision: RevisionStatus | None) -> datetime:
        """When a revision began."""
        text = ""
        if revision is not None and isinstance(view, KnativeView) and revision.name in view.revisions:
            text = view.revisions[revision.name].created_at
        elif revision is not None and isinstance(view, StandardView):
            text = view.created_at.get(revision.name, "")
        return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else datetime.now(UTC)

    def _detect(self, isvc: dict[str, Any], *, splitting: bool) -> Mode:
        installed = self.installed()
        mode = detect(isvc, installed)
        if splitting:
            check_split(self.service, mode, installed)
        return mode

    def _knative(self, isvc: dict[str, Any]) -> KnativeView:
        revisions = self.cluster.revisions(self.service)
        return knative_view.read(self.service, isvc, revisions, self.cluster.pods(self.service))

    def _standard(self, isvc: dict[str, Any]) -> StandardView:
        names = (self.service, f"{self.service}-predictor")
        routes = [route for route in map(self.cluster.route, names) if route is not None]
        deployments, pods = self.cluster.deployments(self.service), self.cluster.pods(self.service)
        return standard_view.read(self.service, isvc, deployments, pods, routes)
