"""Faults that a test plans: which request, what goes wrong, how often."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fake_kubernetes.status import ApiError, conflict


@dataclass
class Fault:
    """One planned fault. It hits requests with this method whose path contains `path`, `times` times."""

    kind: str
    """`error` (answers `error`), `late` (seconds), `lost` (applied, connection dropped), `refused` (dropped)."""
    method: str = "PATCH"
    path: str = ""
    times: int = 1
    seconds: float = 0.0
    error: ApiError = field(
        default_factory=lambda: ApiError(500, "InternalError", "etcdserver: request timed out")
    )
    before: Callable[[], None] | None = None
    """Called when it hits, before anything else: another writer, say."""

    def hits(self, method: str, path: str) -> bool:
        """Whether it is this request's turn; counts down."""
        hit = self.times > 0 and method == self.method and self.path in path
        self.times -= int(hit)
        return hit


def conflicts(times: int) -> Fault:
    """A storm of 409."""
    return Fault("error", times=times, error=conflict("inferenceservices.serving.kserve.io", "any"))


def webhook_denies(message: str, *, method: str = "PATCH", times: int = 10**6) -> Fault:
    """An admission webhook that says no."""
    text = f'admission webhook "policy.example.com" denied the request: {message}'
    return Fault("error", method=method, times=times, error=ApiError(403, "Forbidden", text))
