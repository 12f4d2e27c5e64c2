"""Absence at ZooKeeper: evidence against one who was seen there, in a session of ours that lasts,
while others stay.
"""

from datetime import UTC, datetime

from base.membership import View
from ops.liveness.heartbeats import HeartbeatMonitor
from ops.liveness.zookeeper_members import Missing

BEAT = datetime(2026, 1, 1, tzinfo=UTC)


def missing(*views: View | None) -> list[list[str]]:
    """Who is missing at each of the looks."""
    left = list(views)
    monitor = Missing(lambda: left.pop(0))
    return [sorted(monitor.names()) for _ in views]


def view(*names: str, session: int = 1) -> View:
    return View(session, frozenset(names))


class TestMissing:
    def test_one_that_went_while_others_stay(self) -> None:
        assert missing(view("a", "b"), view("a"), view("a", "b")) == [[], ["b"], []]

    def test_one_that_was_never_there_isnt_missing(self) -> None:
        assert missing(view("a"), view("a")) == [[], []]

    def test_nobody_is_when_our_own_session_went_as_well(self) -> None:
        assert missing(view("a", "b"), view("a", session=2), view("a", session=2)) == [[], [], []]

    def test_nobody_is_when_everybody_went(self) -> None:
        assert missing(view("a", "b"), view()) == [[], []]

    def test_nobody_is_while_zookeeper_is_away(self) -> None:
        assert missing(view("a", "b"), None) == [[], []]


class TestSilenceOfTheMissing:
    def test_little_silence_is_enough(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)

        found = [monitor.dead({"w": BEAT}, now=second, missing={"w"}) for second in (1, 2, 3)]

        assert found == [[], [], ["w"]]

    def test_one_that_beats_keeps_its_claims(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)

        assert not any(monitor.dead({"w": datetime.fromtimestamp(second, UTC)}, now=second, missing={"w"}) for second in range(60))
