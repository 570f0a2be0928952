"""Every address that a person, an alert or a report is given."""

import re
from dataclasses import dataclass

from resources.settings import HOST, Settings

_CREDENTIALS = re.compile(r"://\S*@")


@dataclass(frozen=True)
class Links:
    """The platform's pages, as the settings place them; nothing is asked whether it is there."""

    settings: Settings

    @property
    def dagster(self) -> str:
        """Dagster's UI."""
        return _local(self.settings.ports.dagster)

    @property
    def automation(self) -> str:
        """Where sensors and schedules are turned on and off."""
        return f"{self.dagster}/automation"

    def run(self, run_id: str) -> str:
        """A run of Dagster's."""
        return f"{self.dagster}/runs/{run_id}"

    def asset(self, *key: str) -> str:
        """An asset of Dagster's."""
        return "/".join((self.dagster, "assets", *key))

    @property
    def gateway(self) -> str:
        """Where models answer."""
        return _local(self.settings.ports.gateway)

    def infer(self, service: str) -> str:
        """Where one model answers, in the Open Inference Protocol v2."""
        return f"{self.gateway}/v2/models/{service}/infer"

    @property
    def reports(self) -> str:
        """The server of `<home>/reports`."""
        return _local(self.settings.ports.reports)

    def report(self, *parts: str) -> str:
        """A file of `<home>/reports`."""
        return "/".join((self.reports, *parts))

    def rollout_report(self, rollout_id: str) -> str:
        """A rollout's report."""
        return self.report(f"{rollout_id}.html")

    @property
    def mlflow(self) -> str:
        """The MLflow server that this machine runs, whichever one is asked."""
        return _local(self.settings.ports.mlflow)

    def version(self, model: str, version: str) -> str:
        """A version's page in MLflow's UI, without the credentials that the address may hold."""
        uri = _CREDENTIALS.sub("://", self.settings.mlflow_uri.rstrip("/"))
        return f"{uri}/#/models/{model}/versions/{version}"

    @property
    def evidently(self) -> str:
        """The Evidently UI."""
        return _local(self.settings.ports.evidently)

    def evidently_page(self, path: str) -> str:
        """A page of it; `path` begins with a slash."""
        return f"{self.evidently}{path}"


def _local(port: int) -> str:
    return f"http://{HOST}:{port}"
