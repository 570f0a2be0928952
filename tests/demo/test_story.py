"""What the demo tells of a rollout, from its events."""

from pathlib import Path

import pytest

from pipelines.core.rollout.events import End
from pipelines.demo.story import in_words
from tests.support.rollouts import MODEL, Rig, good, harmful


@pytest.mark.parametrize("end", [End.PROMOTED, End.ROLLED_BACK])
def test_a_lapse_a_promotion_and_its_bake_are_told_in_words_and_how_the_bake_ends(
    tmp_path: Path, end: End
) -> None:
    rig = Rig(tmp_path)
    rollout = rig.start(steps=[10, 100], bake="90s")
    for _ in range(3):
        rig.controller().drive(rollout, good(rig.clock.now))
        rig.clock.tick()
    rig.controller().drive(rollout, (good if end is End.PROMOTED else harmful)(rig.clock.now))
    lines = "\n".join(in_words(rig.ledger.events(rollout)))
    assert "  about to promote it: 98 % of the traffic, and the alias `champion`\n" in lines
    assert "  baking: promoted; version 1 stays warm with 2 % for 1m 30s more\n" in lines
    last = "DECIDED promote: baked for 1m 30s" if end is End.PROMOTED else "DECIDED roll back: errors: errors"
    assert last in lines
    assert lines.endswith(f"ENDED {end.replace('_', ' ')}")


@pytest.mark.parametrize(
    ("steps", "words"),
    [([10, 100], "its share of 10 % was"), (["shadow", 100], "its copy of the traffic was")],
)
def test_what_nobody_watched_is_told_with_the_reason(tmp_path: Path, steps: list[object], words: str) -> None:
    rig = Rig(tmp_path)
    rollout = rig.start(steps=steps)
    rig.controller().drive(rollout, good(rig.clock.now))
    lapse = rig.world.lapse(MODEL)
    assert lapse is not None
    rig.controller().lapsed(rollout, lapse)
    line = list(in_words(rig.ledger.events(rollout)))[-1]
    assert f"{words} taken away: nobody has watched it for 10 s" in line
