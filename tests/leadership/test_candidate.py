"""What a leader may believe of itself."""

import pytest

from ops.leadership.candidate import ACT_SHARE, Candidate


class Alone(Candidate):
    """Elected as soon as it is told."""

    def __init__(self, now: list[float]) -> None:
        super().__init__("alone", seconds=4.0, clock=lambda: now[0])
        self.gave_way = 0

    def members(self) -> list[str]:
        return [self.name]

    def _stand(self) -> float:
        return 60.0

    def _step_down(self) -> None:
        self.gave_way += 1

    def _close(self) -> None:
        pass

    def lead(self, term: int) -> None:
        self._term, self._confirmed_at = term, self._clock()


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


class TestBelief:
    def test_lasts_for_half_a_session_since_the_last_confirmation(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.lead(7)

        now[0] += ACT_SHARE * 4.0 - 0.01
        before = leader.term
        now[0] += 0.02

        assert (before, leader.term) == (7, None)

    def test_comes_back_with_the_next_confirmation_if_the_term_is_still_ours(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.lead(7)
        now[0] += 3.0

        leader._confirm(now[0] - 0.1)

        assert leader.term == 7

    def test_a_late_confirmation_counts_from_when_it_was_asked_for(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.lead(7)
        asked_at = now[0]
        now[0] += 60.0  # stopped in between

        leader._confirm(asked_at)

        assert leader.term is None

    def test_a_clock_that_went_back_is_not_believed(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.lead(7)

        now[0] -= 1.0

        assert leader.term is None

    def test_ends_at_once_when_it_resigns(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.campaign()
        leader.lead(7)

        leader.resign()

        assert leader.term is None
        assert leader.gave_way == 1

    def test_nobody_leading_for_long_is_an_alarm_once(self, now: list[float], caplog: pytest.LogCaptureFixture) -> None:
        standing = Alone(now)
        for _ in range(3):
            now[0] += 10.0
            standing._round()

        assert caplog.text.count("nobody leads") == 1
