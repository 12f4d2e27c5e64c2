import pytest

from tests.fuzz import corpus
from tests.fuzz.decode import Outcome, feed, inputs, judged


class TestMutatedMessages:
    def test_end_as_rows_or_unreadable(self) -> None:
        outcome = Outcome()

        for number, name, raw in inputs(seed=2, numbers=range(20_000)):
            feed(outcome, number, name, raw)

        assert outcome.failures == []
        assert sum(outcome.counts.values()) == 20_000
        assert {f"{name}: {end}" for name in corpus.messages() for end in ("rows", "no rows", "unreadable")} == set(outcome.counts)


class TestInputs:
    def test_are_the_same_for_the_same_seed(self) -> None:
        assert list(inputs(3, range(50))) == list(inputs(3, range(50))) != list(inputs(4, range(50)))

    def test_are_reached_by_their_number(self) -> None:
        assert next(inputs(3, range(49, 50))) == list(inputs(3, range(50)))[-1]


class TestCorpus:
    @pytest.mark.parametrize(("name", "raw"), [(name, raw) for name, messages in corpus.messages().items() for raw in messages])
    def test_is_readable_before_it_is_mutated(self, name: str, raw: bytes) -> None:
        assert judged(raw) in {"rows", "no rows"}
