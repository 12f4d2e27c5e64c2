"""Two people with a typing mistake: through the real pages, to the last call (design, rule 13).

The market gave 0.38262148 BTC for 22957.288932 USDT, and its answer was lost. Ann types what
trading's people say, with one mistake, compares, and asks; Ben approves. Whatever comes of it, what
the service then moves is never further from what the market gave than the hard bound.
"""

from decimal import Decimal

import pytest
from django.conf import settings
from django.test import Client

from base.clock import shift_clock
from clearing.gateways import Action, Counterparty
from clearing.gateways.fake import Applied, Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.interventions.typed import Unclear, read_amount, readings
from clearing.models import Clearing, Intervention
from clearing.status import OperationState, State
from tests.admin.conftest import person
from tests.admin.test_interventions import SEES, ask, decide
from tests.support.orders import World, operation
from tests.support.states import rewritable

SOLD, BOUGHT = Decimal("22957.288932"), Decimal("0.38262148")
RIGHT = {"amount": str(SOLD), "bought": str(BOUGHT)}
REFUSED, HELD, GOES_ON = "refused", "held for another look", "goes on"
MISTAKES = [
    # what is typed instead of 0.38262148 BTC
    ("the point one place to the right", {"bought": "3.8262148"}, REFUSED),
    ("the point one place to the left", {"bought": "0.03826214"}, REFUSED),
    ("a zero too many behind the point", {"bought": "0.038262148"}, REFUSED),
    ("no point", {"bought": "38262148"}, REFUSED),
    ("no point, and the zero before it", {"bought": "038262148"}, REFUSED),
    ("a decimal comma", {"bought": "0,38262148"}, REFUSED),
    ("a space", {"bought": "0.3826 2148"}, REFUSED),
    ("a narrow space that can't be broken", {"bought": "0.3826\u202f2148"}, REFUSED),
    ("an apostrophe", {"bought": "0.3826'2148"}, REFUSED),
    ("no zero before the point", {"bought": ".38262148"}, REFUSED),
    ("two points", {"bought": "0..38262148"}, REFUSED),
    ("points between thousands", {"bought": "0.382.621.48"}, REFUSED),
    ("the unit behind it", {"bought": "0.38262148 BTC"}, REFUSED),
    ("a minus", {"bought": "-0.38262148"}, REFUSED),
    ("an exponent, as a table calculation has it", {"bought": "3.8262148E-1"}, REFUSED),
    ("the letter O for the zero", {"bought": "O.38262148"}, REFUSED),
    ("full-width digits", {"bought": "\uff10.\uff13\uff18\uff12\uff16\uff12\uff11\uff14\uff18"}, REFUSED),
    ("a digit twice at the end", {"bought": "0.382621488"}, REFUSED),
    ("a digit twice at the front", {"bought": "0.33826214"}, HELD),
    ("the first two digits changed round", {"bought": "0.83262148"}, REFUSED),
    ("the second and third digit changed round", {"bought": "0.32862148"}, HELD),
    ("the last two digits changed round", {"bought": "0.38262184"}, GOES_ON),
    ("the key beside the right one, first digit", {"bought": "0.48262148"}, REFUSED),
    ("the key beside the right one, second digit", {"bought": "0.39262148"}, GOES_ON),
    ("the first digit forgotten", {"bought": "0.8262148"}, REFUSED),
    ("a digit in the middle forgotten", {"bought": "0.3822148"}, GOES_ON),
    ("the price instead", {"bought": "60000"}, REFUSED),
    ("what was sold instead", {"bought": str(SOLD)}, REFUSED),
    ("a dollar for a digit", {"bought": "0.38262$48"}, REFUSED),
    ("nothing", {"bought": ""}, REFUSED),
    # what is typed instead of 22957.288932 USDT
    ("sold: a comma between thousands", {"amount": "22,957.288932"}, REFUSED),
    ("sold: a space between thousands", {"amount": "22 957.288932"}, REFUSED),
    ("sold: no point", {"amount": "22957288932"}, REFUSED),
    ("sold: the point one place to the left", {"amount": "2295.728893"}, REFUSED),
    ("sold: the point one place to the right", {"amount": "229572.88932"}, REFUSED),
    ("sold: two digits changed round", {"amount": "22597.288932"}, REFUSED),
    ("sold: two digits changed round, and a lot", {"amount": "22597.288932", "min_lot": "1"}, GOES_ON),
    ("sold: the last digit forgotten", {"amount": "22957.28893"}, REFUSED),
    ("sold: the last digit forgotten, and a lot", {"amount": "22957.28893", "min_lot": "1"}, GOES_ON),
    ("sold: the thousands forgotten, and a lot", {"amount": "957.288932", "min_lot": "1"}, REFUSED),
    ("sold: a lot with a decimal comma", {"amount": "22957.28893", "min_lot": "0,01"}, REFUSED),
    # both
    ("each in the other's place", {"amount": str(BOUGHT), "bought": str(SOLD)}, REFUSED),
    ("both ten times too large", {"amount": "229572.88932", "bought": "3.8262148"}, REFUSED),
]


@pytest.fixture
def asker(db: None) -> Client:
    return person("ann", *SEES, "add_intervention", "change_clearing")


@pytest.fixture
def approver(db: None) -> Client:
    return person("ben", *SEES, "approve_intervention")


@pytest.fixture
def unknown(world: World) -> Clearing:
    """The market gave it, and nobody can say so any more."""
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.APPLY_THEN_RESET))
    clearing = world.run(world.accept(quantity=BOUGHT, quoted_usdt=SOLD))
    [fill] = [effect for effect in world.counterparties.applied if effect.action == Action.EXCHANGE]
    assert (Decimal(fill.result["sold"]), Decimal(fill.result["bought"])) == (SOLD, BOUGHT)
    return clearing


def confirm(clearing: Clearing, asker: Client, approver: Client, typed: dict[str, str]) -> None:
    """Ann compares and asks, if she is let; Ben approves, if he is let."""
    ask(asker, clearing, "confirm_done", reference="T-88213", document="Ms. Wu of trading, by phone at 10:32", **{**RIGHT, **typed})
    for intervention in Intervention.objects.filter(clearing=clearing, state="requested"):
        shift_clock(120)  # beyond any request that may be on its way
        decide(approver, intervention, "approve")
        shift_clock(0)
    clearing.refresh_from_db()


def moved(world: World, counterparty: Counterparty, clearing: Clearing) -> list[Applied]:
    return [effect for effect in world.counterparties.applied if effect.counterparty == counterparty and effect.order_id == clearing.order.order_id]


def test_there_are_at_least_thirty() -> None:
    assert len(MISTAKES) >= 30
    assert len({str(sorted(typed.items())) for _, typed, _ in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(("typed", "ends"), [mistake[1:] for mistake in MISTAKES], ids=[mistake[0] for mistake in MISTAKES])
def test_moves_no_more_than_the_hard_bound(
    world: World, unknown: Clearing, asker: Client, approver: Client, typed: dict[str, str], ends: str
) -> None:
    confirm(unknown, asker, approver, typed)

    executed = Intervention.objects.filter(clearing=unknown, state="executed").exists()
    parked = unknown.state == State.PARKED and operation(unknown, unknown.step).state == OperationState.PLANNED
    assert (REFUSED if not executed else HELD if parked else GOES_ON) == ends
    if parked:  # somebody has another look at the price, and lets it go on
        retry_by_hand(unknown.pk, actor="cleo", reason="the price is what they say")
    if executed:
        world.run(unknown)
        assert unknown.state == State.CLEARED
    bound = settings.CLEARING_HARD_SLIPPAGE_BPS / 10_000
    coin = sum(Decimal(effect.request["amount"]) for effect in moved(world, Counterparty.FUND, unknown) if effect.request["asset"] == "BTC")
    sold = sum(Decimal(effect.result["sold"]) for effect in moved(world, Counterparty.TRADING, unknown))
    assert not executed or abs(coin - BOUGHT) <= bound * BOUGHT
    assert sold - SOLD <= bound * SOLD


def test_without_a_mistake_it_clears(world: World, unknown: Clearing, asker: Client, approver: Client) -> None:
    confirm(unknown, asker, approver, {})
    world.run(unknown)

    assert unknown.state == State.CLEARED
    assert [effect.request["amount"] for effect in moved(world, Counterparty.FUND, unknown)] == [str(SOLD), str(BOUGHT)]


class TestThePages:
    TYPED = {"reason": "their answer was lost", "reference": "T-88213", "document": "Ms. Wu, by phone", **RIGHT}

    def test_nothing_is_requested_before_it_was_compared(self, unknown: Clearing, asker: Client) -> None:
        url = f"/admin/clearing/clearing/{unknown.pk}/ask/confirm_done/"

        answer = asker.post(url, self.TYPED)

        page = answer.content.decode()
        assert not Intervention.objects.exists()
        for told in ("22957.288932 USDT", "0.38262148 BTC", "60000 USDT per BTC", "Ms. Wu, by phone", "to fund under the key"):
            assert told in page
        assert "&quot;amount&quot;: &quot;0.38262148&quot;" in page  # exactly what step 4 will send

    def test_what_is_changed_after_the_comparison_is_compared_again(self, unknown: Clearing, asker: Client) -> None:
        url = f"/admin/clearing/clearing/{unknown.pk}/ask/confirm_done/"
        seal = asker.post(url, self.TYPED).context["seal"]

        answer = asker.post(url, {**self.TYPED, "bought": "0.38262184", "seal": seal})

        assert not Intervention.objects.exists()
        assert answer.context["seal"] not in {"", seal}

    def test_the_approver_reads_the_same(self, unknown: Clearing, asker: Client, approver: Client) -> None:
        ask(asker, unknown, "confirm_done", **self.TYPED)
        [intervention] = Intervention.objects.all()

        page = approver.get(f"/admin/clearing/intervention/{intervention.pk}/change/").content.decode()

        for told in ("22957.288932 USDT", "0.38262148 BTC", "60000 USDT per BTC", "Ms. Wu, by phone", "&quot;amount&quot;: &quot;0.38262148&quot;"):
            assert told in page

    def test_amounts_are_text_fields(self, unknown: Clearing, asker: Client) -> None:
        """A number field drops commas from what is pasted, and counts with the mouse wheel."""
        page = asker.get(f"/admin/clearing/clearing/{unknown.pk}/ask/confirm_done/").content.decode()

        assert 'type="number"' not in page
        assert page.count('inputmode="decimal"') == 3

    def test_an_approval_of_what_was_asked_for_under_another_rule_moves_nothing(self, unknown: Clearing, asker: Client, approver: Client) -> None:
        """Asked for through the release before, which had no bound."""
        ask(asker, unknown, "confirm_done", **self.TYPED)
        with rewritable():
            Intervention.objects.update(bought=Decimal("3.8262148"))
        [intervention] = Intervention.objects.all()
        shift_clock(120)

        answer = decide(approver, intervention, "approve")

        shift_clock(0)
        intervention.refresh_from_db()
        assert intervention.state == "requested"
        assert "no approval makes this possible" in answer.content.decode()


class TestReading:
    @pytest.mark.parametrize(
        ("text", "first", "second"),
        [
            ("0,320", "0.320", "320"),
            ("22,957.28", "22957.28", "22.95728"),
            ("22.957,28", "22957.28", "22.95728"),
            ("22 957", "22.957", "22957"),
            ("1'000'000", "1000.000", "1000000"),
            ("1.234.567", "1234.567", "1234567"),
            ("22\u00a0957,28", "22957.28", "22.95728"),
        ],
    )
    def test_both_readings_are_shown(self, text: str, first: str, second: str) -> None:
        assert readings(text) == (first, second)
        with pytest.raises(Unclear, match="write it with a point and without separators"):
            read_amount(text, "USDT")

    @pytest.mark.parametrize("text", ["0", "0.5", "22957.288932", "22957.288932000", "100"])
    def test_digits_and_a_point_are_read(self, text: str) -> None:
        assert read_amount(text, "USDT") == Decimal(text)

    @pytest.mark.parametrize(
        "text", ["", " ", "1e5", "+1", "0x10", "Infinity", "NaN", "1.", ".1", "1" * 19, "0." + "1" * 19, "9" * 5_000, "٣", "1\n"]
    )
    def test_nothing_else_is(self, text: str) -> None:
        with pytest.raises(Unclear) as refused:
            read_amount(text, "USDT")
        assert len(str(refused.value)) < 300
