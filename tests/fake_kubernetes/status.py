"""Kubernetes `Status` objects: the errors of an API server."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ApiError(Exception):
    """An answer that is not a success."""

    code: int
    reason: str
    message: str

    def body(self) -> dict[str, Any]:
        """The Status object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


def not_found(what: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{what} "{name}" not found')


def no_such_resource() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(what: str, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{what} "{name}" already exists')


def conflict(what: str, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {what} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return ApiError(409, "Conflict", message)


def forbidden(user: str, verb: str, what: str, group: str, namespace: str) -> ApiError:
    message = (
        f'{what} is forbidden: User "{user}" cannot {verb} resource "{what}" in API group "{group}" '
        f'in the namespace "{namespace}"'
    )
    return ApiError(403, "Forbidden", message)


def denied(message: str) -> ApiError:
    webhook = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
    return ApiError(400, "BadRequest", webhook + message)


def invalid(message: str) -> ApiError:
    return ApiError(422, "Invalid", message)
