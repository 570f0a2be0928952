"""`python -m resources.prediction_log.sink`: serve the sink as environment variables say (docs/kubernetes.md lists them)."""

import asyncio
import os
from collections.abc import Mapping

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resources.prediction_log.sink.app import Sink
from resources.prediction_log.sink.committer import Committer
from resources.settings import HOST, SHORTEST_TOKEN, Settings, lies_open

_CONNECTIONS = 1_000
"""Each may hold some headers before it is known who asks."""


class GivesWay(H11Protocol):
    """Beyond the most connections there may be, the one that has waited longest for a whole request gives way to a new one.

    Nobody has to say who they are to open connections: refusing new ones would leave the sink to whoever was first. Where
    all have sent a request, a new one is answered 503.
    """

    waits_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.waits_since = self.loop.time()
        others = (each for each in self.connections if isinstance(each, GivesWay) and each is not self)
        if len(self.connections) >= (self.limit_concurrency or _CONNECTIONS):
            waiting = [each for each in others if each.waits]
            if waiting:
                oldest = min(waiting, key=lambda each: each.waits_since)
                self.connections.discard(oldest)
                oldest.transport.abort()

    @property
    def waits(self) -> bool:
        """For the headers of a request."""
        cycle = self.cycle  # pyright: ignore[reportUnknownMemberType]
        return cycle is None or cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def on_response_complete(self) -> None:
        self.waits_since = self.loop.time()
        super().on_response_complete()


def main(env: Mapping[str, str]) -> None:
    """Serve until SIGTERM, then write what waits and seal the segments."""
    host, token = env.get("RAMPGATE_SINK_HOST", HOST), env.get("RAMPGATE_SINK_TOKEN", "")
    if lies_open(host, token):
        raise SystemExit(
            f"RAMPGATE_SINK_HOST == {host!r} is open to others: RAMPGATE_SINK_TOKEN must be set, to {SHORTEST_TOKEN} "
            "characters or more, so that nobody finds it who has one model's token"
        )
    power = env.get("RAMPGATE_SINK_DURABILITY", "power") == "power"
    directory = Settings.from_environment(env).prediction_log
    committer = Committer(directory, "power" if power else "process")
    port = int(env.get("RAMPGATE_SINK_PORT", "8080"))
    # h11 takes 64 KiB of headers a request, and no more; httptools takes whatever comes.
    uvicorn.run(
        Sink(committer, token, env.get("RAMPGATE_SINK_TOKEN_BEFORE", "")),
        host=host,
        port=port,
        http=GivesWay,
        limit_concurrency=_CONNECTIONS,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(os.environ)
