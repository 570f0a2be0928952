"""`python -m resources.prediction_log.sink`: serve the sink as environment variables say (docs/kubernetes.md lists them)."""

import os
from collections.abc import Mapping

import uvicorn

from resources.prediction_log.sink.app import Sink
from resources.prediction_log.sink.committer import Committer
from resources.settings import HOST, Settings

_SHORTEST = 16
"""Characters of a token that cannot be found by trying."""

_CONNECTIONS = 1_000
"""Beyond it 503: each may hold some headers before it is known who asks."""


def main(env: Mapping[str, str]) -> None:
    """Serve until SIGTERM, then write what waits and seal the segments."""
    host, token = env.get("RAMPGATE_SINK_HOST", HOST), env.get("RAMPGATE_SINK_TOKEN", "")
    if host != HOST and len(token) < _SHORTEST:
        raise SystemExit(
            f"RAMPGATE_SINK_HOST == {host!r} is open to others: RAMPGATE_SINK_TOKEN must be set, to {_SHORTEST} "
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
        http="h11",
        limit_concurrency=_CONNECTIONS,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(os.environ)
