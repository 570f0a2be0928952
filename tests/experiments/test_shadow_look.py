"""The look job in a shadow step: the evidence that the step waits for, and nothing that would hold it for ever."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.experiment import experiment
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.policy import LOOK_DOUBT
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Verdict
from pipelines.platform.systems import Systems
from resources.settings import Settings
from tests.support.memory_systems import given
from tests.support.rollouts import MODEL, START, Rig, good, manifest

SHADOW: dict[str, Any] = {"steps": ["shadow", 10, 100]}


def test_a_look_in_the_shadow_gives_what_the_step_needs(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rollout_id = rig.start(**SHADOW)
    rig.controller().drive(rollout_id, good(START)[2:])
    systems = Systems(Settings.from_environment({"RAMPGATE_HOME": str(tmp_path)}))
    model = Model(name=MODEL, folder=tmp_path, rollout=manifest(**SHADOW), service={}, digest="")
    result = dg.materialize([experiment(model)], selection=[experiment(model).key], resources=given(systems))
    assert result.success
    state = rig.controller().state(rollout_id)
    assert state.phase is Phase.SHADOW
    recorded = {
        name: (e.verdict, e.pending) for name, e in state.evidence.items() if e.source == "experiment"
    }
    assert recorded.pop(LOOK_DOUBT) == (Verdict.PASS, False)
    assert recorded == dict.fromkeys(("errors", "agreement"), (Verdict.UNKNOWN, True))
    assert set(state.policy.required_in_shadow) == set(recorded)
