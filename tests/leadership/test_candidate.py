"""What a leader may believe of itself."""

import threading
from datetime import UTC, datetime

import pytest

from base.fence import Current
from ops.leadership import candidate as candidate_module
from ops.leadership import terms
from ops.leadership.candidate import ACT_SHARE, RETRY_ROUND_SECONDS, LeaderCandidate


class Alone(LeaderCandidate):
    """Elected as soon as it is told."""

    def __init__(self, now: list[float]) -> None:
        super().__init__("alone", seconds=4.0, clock=lambda: now[0])
        self.gave_way = 0

    def members(self) -> list[str]:
        return [self.name]

    def _campaign_round(self) -> float:
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

    def test_ends_when_it_resigns_whatever_its_thread_has_come_to(self, now: list[float]) -> None:
        leader = Alone(now)
        leader.lead(7)

        leader.resign()  # no thread runs that could have taken notice

        assert leader.term is None

    def test_nobody_leading_for_long_is_an_alarm_once(self, now: list[float], caplog: pytest.LogCaptureFixture) -> None:
        candidate_alone = Alone(now)
        for _ in range(3):
            now[0] += 10.0
            candidate_alone._round()

        assert caplog.text.count("nobody leads") == 1


class TestTakingTheTerm:
    """What the database shows as the current term, when we are elected."""

    def seen(self, term: int, leader: str) -> Current:
        return Current(term, leader, datetime(2026, 1, 1, tzinfo=UTC))

    def test_that_names_us_is_ours_the_answer_to_our_commit_was_lost(self, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        elected = Alone(now)
        monkeypatch.setattr(terms, "take_next", lambda *_: pytest.fail("a further term was taken"))

        elected._take_term(self.seen(8, "alone"), now[0], "a test")

        assert elected.term == 8

    def test_that_names_us_and_that_we_gave_up_is_over(self, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        elected = Alone(now)
        elected.lead(8)
        elected._lead_no_more("a test")
        monkeypatch.setattr(terms, "take_next", lambda seen, *_: seen.term + 1)

        elected._take_term(self.seen(8, "alone"), now[0], "a test")

        assert elected.term == 9

    def test_that_another_took_meanwhile_leaves_us_without_one(self, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        elected = Alone(now)
        monkeypatch.setattr(terms, "take_next", lambda *_: None)

        elected._take_term(self.seen(8, "another"), now[0], "a test")

        assert elected.term is None


class TestARoundThatFails:
    def test_is_followed_by_another_whatever_went_wrong(self, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(candidate_module, "drop_broken_connection", lambda: None)
        candidate_alone = Alone(now)
        monkeypatch.setattr(candidate_alone, "_campaign_round", lambda: 1 / 0)

        assert candidate_alone._round() == RETRY_ROUND_SECONDS


class TestResigning:
    def test_in_a_signal_that_comes_before_its_thread_has_started_waits_for_nothing(self, now: list[float]) -> None:
        leader = Alone(now)
        leader._thread = threading.Thread(target=leader._run)  # as `campaign` has it in between

        leader.resign()

        assert leader.term is None
