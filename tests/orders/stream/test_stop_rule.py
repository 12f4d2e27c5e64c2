from orders.stream.stop_rule import StopRule


def shown(*messages: tuple[int, bool]) -> StopRule:
    """A rule that saw so many messages, bad or not."""
    rule = StopRule()
    for count, bad in messages:
        for _ in range(count):
            rule.count(bad=bad)
    return rule


class TestStopRule:
    def test_a_hundred_bad_in_a_row_stop(self) -> None:
        assert not shown((99, True), (1, False), (99, True)).broken
        assert shown((100, True)).broken == "100 bad messages in a row"

    def test_ten_of_a_thousand_go_on_and_eleven_stop(self) -> None:
        assert not shown((990, False), (10, True)).broken
        assert shown((989, False), (11, True)).broken == "11 of the last 1000 messages are bad"

    def test_before_a_thousand_the_share_is_not_judged(self) -> None:
        assert not shown((988, False), (11, True)).broken

    def test_the_window_slides(self) -> None:
        assert not shown((10, True), (991, False), (10, True)).broken

    def test_a_broken_rule_stays_broken(self) -> None:
        assert shown((100, True), (5, False)).broken
