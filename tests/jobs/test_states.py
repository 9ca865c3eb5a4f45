"""The table of states is what DESIGN and docs say, and nothing leaves a final state."""

from jobs.states import FINAL, LEASED, TRANSITIONS, State, sources_of


def test_final_states_have_no_way_out():
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == FINAL
    assert all(not TRANSITIONS[state] for state in FINAL)


def test_every_state_can_be_reached_from_queued():
    reached, frontier = {State.QUEUED}, {State.QUEUED}
    while frontier:
        frontier = set().union(*(TRANSITIONS[state] for state in frontier)) - reached
        reached |= frontier
    assert reached == set(State)


def test_every_state_that_is_not_final_can_end_cancelled():
    def can_be_cancelled(state: State) -> bool:
        return State.CANCELLED in TRANSITIONS[state] or any(
            State.CANCELLED in TRANSITIONS[target] for target in TRANSITIONS[state]
        )

    assert all(can_be_cancelled(state) for state in set(State) - FINAL)


def test_sources_are_the_transitions_turned_round():
    pairs = {(state, target) for state, targets in TRANSITIONS.items() for target in targets}
    assert {(source, target) for target in State for source in sources_of(target)} == pairs


def test_a_lease_is_held_in_running_pausing_and_cancelling():
    assert {State.RUNNING, State.PAUSING, State.CANCELLING} == LEASED
