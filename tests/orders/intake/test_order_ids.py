"""Orders whose ids the counter doesn't give, by INTAKE_ORDER_ID_PATTERN."""

import re
from dataclasses import replace

import pytest
from pytest_django import Settings

from orders.intake.classify import Bad, Item, Origin, read_row
from orders.intake.mapping import Rules
from orders.models import Source, SyncOrder
from tests.orders.fakes import FakeClearings, order_ids, reasons
from tests.orders.messages import RULES, interface_row, message, read, row, updated

STRICT = replace(RULES, order_ids=re.compile(r"O[0-9]{1,19}", re.ASCII))
REFUSED = "refused:foreign_order_id"


def strictly(*messages: bytes) -> list[Item]:
    return read(*messages, rules=STRICT)


@pytest.mark.django_db(transaction=True)
class TestAnAlias:
    @pytest.mark.parametrize("alias", ["o77", "77", "O77a", "aO77", "O77.", "O-77", "O" + "7" * 20])
    def test_is_no_order(self, clearings: FakeClearings, alias: str) -> None:
        clearings.ingest(strictly(message(row("O77"))))

        result = clearings.ingest(strictly(message(row(alias))))

        assert (order_ids(), reasons(), clearings.held, len(result.bad)) == (["O77"], [(alias, REFUSED)], [], 1)

    def test_is_none_at_the_interface_either(self) -> None:
        whole = interface_row("o77")

        item = read_row(whole, Origin("gap:2", 2, 17, whole), STRICT)

        assert isinstance(item, Bad)
        assert (item.reason, item.order_id) == (REFUSED, "o77")


@pytest.mark.django_db(transaction=True)
class TestAnOrderFromBeforeThePattern:
    @pytest.fixture
    def accepted(self, clearings: FakeClearings) -> str:
        clearings.ingest(read(message(row("before"))))
        return SyncOrder.objects.get().order_id

    def test_is_not_held_when_it_is_read_again(self, clearings: FakeClearings, accepted: str) -> None:
        clearings.ingest(strictly(message(row(accepted))), source=Source.REPLAY)

        assert (clearings.held, reasons()) == ([], [(accepted, REFUSED)])

    def test_is_held_when_it_is_deleted(self, clearings: FakeClearings, accepted: str) -> None:
        clearings.ingest(strictly(message(row(accepted), kind="DELETE")))

        assert clearings.held == [(accepted, "deleted_at_counter")]

    def test_is_held_when_its_id_becomes_another(self, clearings: FakeClearings, accepted: str) -> None:
        clearings.ingest(strictly(updated(row("O5"), order_id=accepted)))

        assert clearings.held == [(accepted, "deleted_at_counter")]


def test_every_id_matches_without_the_setting() -> None:
    assert Rules.from_settings().order_ids.fullmatch("o-77.~_a")


def test_the_rules_have_the_settings_pattern(settings: Settings) -> None:
    settings.INTAKE_ORDER_ID_PATTERN = STRICT.order_ids

    assert Rules.from_settings().order_ids is STRICT.order_ids
