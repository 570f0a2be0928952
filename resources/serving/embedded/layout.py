"""Where the embedded backend keeps its files, all below `Settings.home`, and which ports its predictors
get.
"""

import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import ServingError
from resources.files import write_once
from resources.serving.envoy.description import Gateway
from resources.settings import HOST, Settings

LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True)
class Layout:
    """Paths only; nothing is created by asking for one."""

    home: Path

    @property
    def states(self) -> Path:
        """<service>.json: what each service should be."""
        return self.home / "serving"

    @property
    def leases(self) -> Path:
        """<service>: its time is when somebody last said that he watches the canary's share."""
        return self.states / "leases"

    @property
    def models(self) -> Path:
        """<model>/<version>-<digest12>/: pinned artefacts."""
        return self.home / "models"

    @property
    def programs(self) -> Path:
        """One supervisord program file per predictor process."""
        return self.home / "supervisor" / "predictors"

    @property
    def discovery(self) -> Path:
        """The files that Envoy watches, and its admin socket."""
        return self.home / "gateway"

    @property
    def logs(self) -> Path:
        """What processes print."""
        return self.home / "log"

    @property
    def socket(self) -> Path:
        """Supervisord's socket. Raises `ServingError` where the kernel could not open such a path."""
        return usable_socket(self.home / "supervisor.sock", setting="RAMPGATE_HOME")

    def create(self) -> None:
        """Make the directories that the backend writes to."""
        for folder in (self.states, self.leases, self.models, self.programs, self.discovery, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.discovery.chmod(0o700)

    def probe_token(self) -> str:
        """The secret that lets a request choose its revision; made on first use, for the owner's eyes."""
        path = self.states / "probe-token"
        if not path.exists():
            write_once(path, secrets.token_hex(16), mode=0o600)
        return path.read_text()


def usable_socket(path: Path, *, setting: str) -> Path:
    """The path of a socket below the folder that `setting` names. Raises `ServingError` where the kernel has no room for it."""
    if (length := len(os.fsencode(path))) > LONGEST_SOCKET_PATH:
        raise ServingError(
            f"{setting}: the socket path {path} has {length} bytes, must be at most {LONGEST_SOCKET_PATH}:"
            " choose a shorter folder"
        )
    return path


def gateway_of(settings: Settings) -> Gateway:
    """The gateway that `settings` describe."""
    layout = Layout(settings.home)
    return Gateway(
        host=HOST,
        port=settings.ports.gateway,
        discovery=layout.discovery,
        access_log=layout.logs / "gateway-access.jsonl",
    )


# Ports for predictor processes.


RANGE = 100


def allocate(first: int, count: int, *, taken: Iterable[int]) -> tuple[int, ...]:
    """`count` ports from `first` on that nobody was given and nobody listens on."""
    reserved = set(taken)
    free = (port for port in range(first, first + RANGE) if port not in reserved and is_free(port))
    found = tuple(port for port, _ in zip(free, range(count), strict=False))
    if len(found) < count:
        raise ServingError(
            f"no {count} free ports in {first} to {first + RANGE - 1}; set RAMPGATE_PREDICTORS_PORT"
        )
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
