"""Sets of ids, against Python's own."""

from hypothesis import given
from hypothesis import strategies as st

from ops.seals.ids import Ids

SETS = st.sets(st.integers(0, 60))


@given(SETS, SETS)
def test_are_sets(one: set[int], two: set[int]) -> None:
    ids, others = Ids.of(one), Ids.of(two)

    assert list(ids) == sorted(one)
    assert list(ids | others) == sorted(one | two)
    assert list(ids - others) == sorted(one - two)
    assert [pk in ids for pk in range(-1, 62)] == [pk in one for pk in range(-1, 62)]
    assert (len(ids), bool(ids)) == (len(one), bool(one))
    assert ids.bounds == ((min(one), max(one)) if one else (0, -1))


@given(SETS)
def test_are_written_and_read(ids: set[int]) -> None:
    assert Ids.read(Ids.of(ids).text) == Ids.of(ids)
