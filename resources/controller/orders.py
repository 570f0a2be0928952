"""Which orders make sense when."""

from typing import assert_never

from pipelines.errors import CommandRefused
from pipelines.rollout.events import Action, Order
from pipelines.rollout.state import Phase, RolloutState


def check_order(state: RolloutState, order: Order) -> None:
    """Raise CommandRefused with the reason where the order would have no effect."""
    problem = _problem(state, order)
    if problem is not None:
        raise CommandRefused(f"{order} of {state.rollout_id}: {problem}")


def _problem(state: RolloutState, order: Order) -> str | None:
    if state.phase is Phase.ROLLING_BACK:
        return "it is being rolled back, and nothing gives it traffic again"
    if state.phase is Phase.PROMOTING:
        ends = order is Order.ABORT and Action.PROMOTE not in state.done
        return None if ends else "it is being promoted"
    match order:
        case Order.RESUME if state.paused is None:
            return "it is not paused"
        case Order.PAUSE if state.paused is not None:
            return f"it is paused already, by {state.paused.by}: {state.paused.reason}"
        case Order.APPROVE if state.policy.approval == "none":
            return "its policy asks for no approval"
        case Order.RESUME | Order.PAUSE | Order.APPROVE:
            return None
        case Order.ABORT | Order.ROLL_BACK_NOW | Order.FORCE_PROMOTE:
            return None
        case _:
            assert_never(order)
