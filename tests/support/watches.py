"""The standing watches of one test: a thread that a sensor has begun goes on for a minute, into tests that begin none."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from pipelines.rollouts.standing_watch import StandingWatch


class Watches:
    """Every watch that was kept on since this was made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._kept: list[StandingWatch] = []
        keep = StandingWatch.keep

        def noted(watch: StandingWatch, *args: Any, **kwargs: Any) -> None:
            if watch not in self._kept:
                self._kept.append(watch)
            keep(watch, *args, **kwargs)

        patch.setattr(StandingWatch, "keep", noted)

    @property
    def on(self) -> list[threading.Thread]:
        """The threads that watch now."""
        threads = (watch._thread for watch in self._kept)  # pyright: ignore[reportPrivateUsage]
        return [thread for thread in threads if thread is not None and thread.is_alive()]

    def wait(self) -> None:
        """Until each has ended by itself."""
        for thread in self.on:
            thread.join(10)

    def end(self) -> None:
        """The round under way is the last."""
        on = self.on
        for watch in self._kept:
            self._patch.setattr(watch, "_until", 0.0)
        for thread in on:
            thread.join(timedelta(seconds=20).total_seconds())
            assert not thread.is_alive(), "a watch that does not end"
