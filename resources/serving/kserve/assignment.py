"""Who gets the canary of a service: the part of a rollout that the gateway alone carries out.

One key per service in the config map `rampgate-assignments` of the models' namespace. It is not on the
InferenceService, because KServe copies that object's annotations into the pod template, where any change starts a
new revision.
"""

import json
from dataclasses import asdict, dataclass

from pipelines.errors import ServingError
from resources.serving.kserve.client import ASSIGNMENTS


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The share of one deployment. It means nothing for any other deployment of the service."""

    revision: str
    """`<service>-<label>`, see `resources.serving.kserve.identity.Identity.label`."""
    version: str
    percent: float
    salt: str
    mirror: bool = False
    command: int = 0
    """Counts the commands; a slow command gives way to a newer one."""

    def encode(self) -> str:
        """As it stands in the config map."""
        return json.dumps(asdict(self), sort_keys=True)


def decode(service: str, text: str) -> Assignment:
    """The assignment in a value of the config map. Raises ServingError for anything else."""
    try:
        return Assignment(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ServingError(
            f"config map {ASSIGNMENTS}: data[{service!r}] == {text[:200]!r} is not an assignment"
        ) from error
