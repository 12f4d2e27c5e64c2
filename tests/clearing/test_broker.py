"""The broker's generation: asked for at most once a second, and never where a transaction is open."""

import pytest
from django.db import transaction

from clearing import broker


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hasn't asked yet."""
    monkeypatch.setattr(broker, "_known", broker._Known())


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("forgotten")
class TestGeneration:
    def test_is_asked_for_where_no_transaction_is_open(self) -> None:
        assert broker.generation() == broker.last_generation() != ""

    def test_is_not_asked_for_inside_a_transaction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "client", lambda: pytest.fail("the broker was asked inside a transaction"))

        with transaction.atomic():
            found = broker.generation()

        assert found == ""

    def test_that_was_read_before_is_known_inside(self) -> None:
        known = broker.generation()

        with transaction.atomic():
            assert broker.generation() == known
