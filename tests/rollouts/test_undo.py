"""The way back from a promotion: in the bake, after it, and where there is none."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import CommandRefused, LedgerError, RegistryError, ServingError
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import End, Order, named
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Verdict
from pipelines.jobs import control_jobs
from pipelines.rollouts.actions import UNDONE
from pipelines.rollouts.start import carry_on
from pipelines.rollouts.undo import Undone, undo
from resources.serving.contract import ModelArtefact
from tests.support.memory_systems import MemorySystems, broken_predictor, given, memory_systems, start_rollout
from tests.support.rollouts import MODEL, evidence, harmful

NAMES = ("errors", "slow", "cost", "units", "data_quality", "drift")


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[MemorySystems]:
    yield from memory_systems(tmp_path)


def with_bake(systems: MemorySystems, bake: str) -> Model:
    file = systems.settings.manifests / MODEL / "rollout.yaml"
    text = "".join(line for line in file.read_text().splitlines(True) if not line.startswith("bake: "))
    file.write_text(f"{text}bake: {bake}\n")
    systems.__dict__.pop("catalogue", None)
    return systems.model


def promote(systems: MemorySystems, *, bake: str = "0s") -> str:
    """Version 2 takes the place of version 1; with a bake, it begins."""
    model = with_bake(systems, bake)
    rollout = start_rollout(systems, model)
    now = datetime.now(UTC)
    systems.controller.drive(rollout, [evidence(name, Verdict.PASS, now) for name in NAMES])
    return rollout


def ordered(systems: MemorySystems) -> Undone:
    return undo(systems, systems.model, by="ada", reason="customers call")  # type: ignore[arg-type]


def champion(systems: MemorySystems) -> str | None:
    return systems.world.aliases.get((MODEL, "champion"))


def served(systems: MemorySystems) -> str:
    stable = systems.world.of(MODEL).stable
    assert stable is not None
    return stable.version


def test_within_the_bake_the_previous_champion_is_still_warm(systems: MemorySystems) -> None:
    rollout = promote(systems, bake="24h")
    assert (champion(systems), systems.share, served(systems)) == ("2", 98, "1")
    done = ordered(systems)
    assert done == Undone(rollout, "1", "2", warm=True)
    assert (champion(systems), systems.share, served(systems)) == ("1", 0, "1")
    assert systems.world.of(MODEL).canary is None
    assert systems.controller.state(rollout).end is End.ROLLED_BACK
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == End.ROLLED_BACK


class Away:
    """The ledger does not answer, from its n-th call on."""

    def __init__(self, systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
        self.left = after
        for name in ("append", "events", "rollouts"):
            monkeypatch.setattr(systems.ledger, name, self.unless_away(getattr(systems.ledger, name)))

    def unless_away(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise LedgerError("the ledger is away")
            return call(*given, **named)

        return called


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 6, 9])
def test_within_the_bake_the_traffic_goes_back_while_the_ledger_is_away(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whenever it went away: safe traffic first, then the record, as soon as it is back."""
    rollout = promote(systems, bake="24h")
    with monkeypatch.context() as patch:
        Away(systems, patch, after=after)
        assert ordered(systems) == Undone(rollout, "1", "2", warm=True)
        assert (systems.share, served(systems)) == (0, "1")
    systems.controller.drive(rollout)
    assert systems.controller.state(rollout).end is End.ROLLED_BACK
    assert (champion(systems), served(systems)) == ("1", "1")
    assert systems.world.tags[MODEL, "2", "rampgate.reason"] == "roll_back_now by ada: undo: customers call"


def test_without_the_ledger_a_rollouts_share_is_not_taken_for_a_bake(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rollout(systems)
    Away(systems, monkeypatch, after=0)
    with pytest.raises(LedgerError):
        ordered(systems)
    assert systems.share == 10


def test_after_the_bake_it_is_started_from_the_registry_and_answers_before_traffic_moves(
    systems: MemorySystems,
) -> None:
    promote(systems)
    assert (champion(systems), served(systems)) == ("2", "2")
    done = ordered(systems)
    assert (done.version, done.instead_of, done.warm) == ("1", "2", False)
    assert (champion(systems), served(systems)) == ("1", "1")
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == UNDONE
    assert named(systems.world.tags[MODEL, "2", "rampgate.rollout"]).version == "2", "or it would start again"
    assert systems.controller.state(done.rollout_id).phase is Phase.ENDED


def test_an_undo_that_somebody_else_finishes_tells_the_registry_the_same(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ordered it may be gone before it has come up."""
    promoted = promote(systems)
    monkeypatch.setattr("pipelines.rollouts.undo.carry_on", crashed)
    with pytest.raises(KeyboardInterrupt):
        ordered(systems)
    (row,) = systems.ledger.rollouts(MODEL, open_only=True)
    carry_on(systems, systems.model, row.rollout_id)  # type: ignore[arg-type]
    assert (champion(systems), served(systems)) == ("1", "1")
    tags = [systems.world.tags[MODEL, "2", f"rampgate.{name}"] for name in ("status", "rollout", "reason")]
    assert tags == [UNDONE, promoted, "undo: customers call"]


def crashed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_version_that_was_deleted_since_its_promotion_is_undone_all_the_same(
    systems: MemorySystems,
) -> None:
    promote(systems)
    systems.world.delete(MODEL, "2")
    assert ordered(systems).version == "1"
    assert (champion(systems), served(systems)) == ("1", "1")


@pytest.mark.parametrize("how", ["is over", "is not known"])
def test_an_undo_at_the_very_end_of_a_bake_says_nothing_that_is_not_so(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The bake ends while the undo is on its way: then it is one after the bake; where nobody knows, it is refused."""
    rollout = promote(systems, bake="24h")
    systems.controller.command(rollout, Order.FORCE_PROMOTE, by="bob", reason="enough")
    asked, promoting = systems.controller.command, systems.backend.promote

    def ends_first(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(systems.controller, "command", asked)
        if how == "is not known":
            monkeypatch.setattr(systems.backend, "promote", silent_promotion(promoting))
            monkeypatch.setattr(systems.backend, "status", unasked)
        systems.controller.drive(rollout)
        return asked(*given, **named)

    monkeypatch.setattr(systems.controller, "command", ends_first)
    if how == "is over":
        done = ordered(systems)
        assert (done.warm, done.version, served(systems)) == (False, "1", "1")
    else:
        with pytest.raises(CommandRefused, match="is just ending, and it is not known whether version 1"):
            ordered(systems)


def unasked(*_: Any) -> Any:
    raise ServingError("no answer")


def silent_promotion(promote: Callable[..., Any]) -> Callable[..., Any]:
    """It takes effect, and the answer is lost."""

    def silent(*given: Any, **named: Any) -> Any:
        promote(*given, **named)
        raise ServingError("no answer")

    return silent


def test_never_into_a_version_that_does_not_answer(systems: MemorySystems) -> None:
    promote(systems)
    systems.backend.predict_with = broken_predictor
    with pytest.raises(CommandRefused, match="version 1 is not served yet, and 2 still is: it ended refused"):
        ordered(systems)
    assert (champion(systems), served(systems), systems.world.share(MODEL, "1")) == ("2", "2", 0)
    systems.backend.predict_with = MemorySystems(systems.settings).backend.predict_with
    assert ordered(systems).version == "1", "once it answers again"


def test_where_it_is_not_known_whether_it_answers_traffic_stays_and_it_goes_on_by_itself(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(systems)

    def silent(request: Any) -> Any:
        raise ServingError("no connection")

    answers, systems.backend.predict_with = systems.backend.predict_with, silent
    with pytest.raises(CommandRefused, match="tried again by itself"):
        ordered(systems)
    assert served(systems) == "2"
    systems.backend.predict_with = answers
    (row,) = systems.ledger.rollouts(MODEL, open_only=True)
    monkeypatch.setattr("pipelines.rollouts.start.validation_due", lambda state, now: True)
    carry_on(systems, systems.model, row.rollout_id)  # type: ignore[arg-type]
    assert served(systems) == "1"


def test_there_is_nothing_to_go_back_to(systems: MemorySystems) -> None:
    with pytest.raises(
        CommandRefused, match="nothing to go back to: version 1 is served, and the ledger has no"
    ):
        ordered(systems)


def test_a_rollout_under_way_is_taken_back_by_its_own_order(systems: MemorySystems) -> None:
    start_rollout(systems)
    with pytest.raises(CommandRefused, match="under way and not promoted .* order roll_back_now"):
        ordered(systems)
    assert systems.share == 10


def test_a_second_undo_does_not_bring_the_bad_version_back(systems: MemorySystems) -> None:
    promote(systems)
    ordered(systems)
    with pytest.raises(CommandRefused, match="version 1 was itself brought back by an undo"):
        ordered(systems)
    assert served(systems) == "1"


def promote_third(systems: MemorySystems, *, bake: str) -> str:
    """Version 3 takes the place of version 2."""
    model = with_bake(systems, bake)
    systems.registry.known.add("3")
    systems.challenge("3")
    rollout = systems.controller.start(model.rollout, "3", "2", systems.registry.artefact(MODEL, "3"))
    systems.controller.drive(rollout)
    systems.controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    systems.controller.drive(rollout)
    return rollout


@pytest.mark.parametrize("first", ["undo", "harm"])
def test_an_undo_after_a_bake_was_taken_back_does_not_go_back_by_two_versions(
    systems: MemorySystems, first: str
) -> None:
    """Two people order it at once, or one does just after harm was found."""
    promote(systems)
    rollout = promote_third(systems, bake="24h")
    assert systems.world.share(MODEL, "3") == 98
    if first == "undo":
        assert ordered(systems).version == "2"
    else:
        systems.controller.drive(rollout, harmful(datetime.now(UTC)))
    with pytest.raises(
        CommandRefused, match="version 2 was itself brought back, when the promotion of version 3"
    ):
        ordered(systems)
    assert (champion(systems), served(systems)) == ("2", "2")


def test_an_artefact_that_was_changed_since_it_was_served_is_not_served_again(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 was promoted with the digest in the ledger, then version 3 took its place."""
    promote(systems)
    promote_third(systems, bake="0s")
    assert served(systems) == "3"

    def changed(model: str, version: str, *, local: bool = True) -> ModelArtefact:
        return ModelArtefact(model=model, version=version, uri="", digest="sha-other")

    monkeypatch.setattr(systems.registry, "artefact", changed)
    with pytest.raises(CommandRefused, match="its digest is sha-other, and sha-2 was served"):
        ordered(systems)
    monkeypatch.undo()
    assert ordered(systems).version == "2"


def test_without_a_reason_nothing_is_done(systems: MemorySystems) -> None:
    promote(systems, bake="24h")
    with pytest.raises(CommandRefused, match="the reason is empty"):
        undo(systems, systems.model, by="ada", reason=" ")  # type: ignore[arg-type]
    assert systems.share == 98


@pytest.mark.parametrize("away", [RegistryError("MLflow does not answer"), LedgerError("the ledger is away")])
def test_what_cannot_be_asked_changes_no_traffic_after_the_bake(
    systems: MemorySystems, away: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(systems)

    def gone(*_: Any, **__: Any) -> Any:
        raise away

    part = systems.registry if isinstance(away, RegistryError) else systems.ledger
    monkeypatch.setattr(part, "artefact" if part is systems.registry else "rollouts", gone)
    with pytest.raises(type(away)):
        ordered(systems)
    assert served(systems) == "2"


def test_a_person_undoes_in_one_step_from_the_ui(systems: MemorySystems) -> None:
    promote(systems, bake="24h")
    (job,) = [job for job in control_jobs(systems.model) if job.name.endswith("_undo")]
    config = {"ops": {f"{job.name}_order": {"config": {"by": "ada", "reason": "customers call"}}}}
    assert job.execute_in_process(run_config=config, resources=given(systems)).success
    assert (champion(systems), served(systems), systems.share) == ("1", "1", 0)


@pytest.mark.parametrize("order", Order)
def test_every_order_says_what_it_does_in_a_bake(systems: MemorySystems, order: Order) -> None:
    rollout = promote(systems, bake="24h")
    expected = {
        Order.PAUSE: ("2", 98.0, None),
        Order.RESUME: None,
        Order.APPROVE: None,
        Order.ABORT: ("1", 0.0, End.ABORTED),
        Order.ROLL_BACK_NOW: ("1", 0.0, End.ROLLED_BACK),
        Order.FORCE_PROMOTE: ("2", 100.0, End.PROMOTED),
    }[order]
    if expected is None:
        with pytest.raises(CommandRefused):
            systems.controller.command(rollout, order, by="ada", reason="because")
        return
    systems.controller.command(rollout, order, by="ada", reason="because")
    systems.controller.drive(rollout)
    end = systems.controller.state(rollout).end
    assert (champion(systems), systems.share, end) == expected
