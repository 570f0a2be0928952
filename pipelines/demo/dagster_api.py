"""What a person clicks in the Dagster UI, as the GraphQL calls that the UI itself makes."""

from typing import Any

import httpx

from pipelines.core.errors import RampgateError

_LAUNCH = """
mutation($location: String!, $job: String!, $config: RunConfigData!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: $location, repositoryName: "__repository__", jobName: $job},
    runConfigData: $config
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""

_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus locationOrLoadError { __typename ... on PythonError { message } }
} } } }"""

_RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


class DagsterApi:
    """Calls on a Dagster webserver at `url`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0)

    def close(self) -> None:
        self._client.close()

    def location(self) -> str:
        """The name of the loaded code location; `RampgateError` says why it did not load."""
        entries = self._post(_LOCATIONS)["workspaceOrError"]["locationEntries"]
        for entry in entries:
            loaded = entry["locationOrLoadError"] or {}
            if loaded.get("__typename") == "PythonError":
                raise RampgateError(f"the code location {entry['name']} does not load: {loaded['message']}")
            if loaded.get("__typename") == "RepositoryLocation":
                return str(entry["name"])
        raise RampgateError("no code location has loaded yet")

    def launch(self, job: str, config: dict[str, Any]) -> str:
        """Launch a job from the launchpad; returns the run id."""
        answer = self._post(_LAUNCH, location=self.location(), job=job, config=config)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RampgateError(f"Dagster did not launch {job}: {answer}")
        return str(answer["run"]["runId"])

    def run_status(self, run_id: str) -> str:
        """QUEUED, STARTED, SUCCESS, FAILURE, ..."""
        return str(self._post(_RUN, id=run_id)["runOrError"].get("status", "UNKNOWN"))

    def _post(self, query: str, **variables: Any) -> dict[str, Any]:
        response = self._client.post("/graphql", json={"query": query, "variables": variables})
        response.raise_for_status()
        body = response.json()
        if body.get("errors"):
            raise RampgateError(f"Dagster refused a query: {body['errors'][0]['message']}")
        return body["data"]
