"""Rule 12, order by order: each step once, exactly the residue of design section 2, and slippage as
it is stored. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from ops.audit.facts import Effect, Placed, Residue

SLIPPAGE_UNIT = Decimal("0.00000001")
EXCHANGE_STEP = 3
STEPS = frozenset({1, 2, 3, 4})
MARKET, FUND, SYSTEM, CONTRACTS = "market", "fund", "system", "counter:contracts"
USDT = "USDT"


def by_order(effects: Iterable[Effect]) -> dict[str, list[Effect]]:
    """Each order's effects, in the order of application."""
    found: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        found[effect.order_id].append(effect)
    return found


def doubled(effects: Sequence[Effect]) -> list[str]:
    """The keys of effects, of one order, that came after another one of the same step and part; and
    of those that are no step of ours.
    """
    seen: Counter[tuple[int, int]] = Counter()
    found = []
    for effect in effects:
        place = effect.place
        if place is None or seen[place]:
            found.append(effect.key)
        else:
            seen[place] += 1
    return found


def lacking(effects: Sequence[Effect]) -> list[int]:
    """The steps that were never applied."""
    return sorted(STEPS - {place[0] for effect in effects if (place := effect.place)})


def disordered(effects: Sequence[Effect]) -> list[str]:
    """The keys of effects that came after one of a later step, or of a later part (rule 4)."""
    found, furthest = [], (0, 0)
    for effect in effects:
        place = effect.place or (0, 0)
        if place < furthest:
            found.append(effect.key)
        furthest = max(furthest, place)
    return found


def badly_exchanged(order: Placed, effects: Sequence[Effect]) -> list[str]:
    """Where the exchange sold more than the order has, or left what the market would have taken: a
    minimum lot or more.
    """
    parts = [effect for effect in effects if effect.place and effect.place[0] == EXCHANGE_STEP]
    whole = order.quoted_usdt if order.direction == "OPEN" else order.quantity
    left = whole - exchanged(effects)[0]
    if left < 0:
        return [f"{-left} more than the order's {whole} was sold"]
    if left and parts and (parts[-1].min_lot is None or left >= parts[-1].min_lot):
        return [f"{left} of {whole} wasn't sold, and the market's minimum lot is {parts[-1].min_lot}"]
    return []


def exchanged(effects: Sequence[Effect]) -> tuple[Decimal, Decimal]:
    """(sold, bought) over all parts of step 3."""
    parts = [effect for effect in effects if effect.place and effect.place[0] == EXCHANGE_STEP]
    return sum((part.sold or Decimal(0) for part in parts), Decimal(0)), sum((part.bought or Decimal(0) for part in parts), Decimal(0))


def expected_residue(order: Placed, effects: Sequence[Effect]) -> Residue:
    """What a cleared order leaves in the ledger, and nothing else; what the exchange didn't sell
    stays with fund as dust.
    """
    sold, bought = exchanged(effects)
    user = f"user:{order.user_id}"
    if order.direction == "OPEN":
        amounts = {
            (user, USDT): -order.quoted_usdt,
            (MARKET, USDT): sold,
            (MARKET, order.asset): -bought,
            (FUND, USDT): order.quoted_usdt - sold,
            (CONTRACTS, order.asset): order.quantity,
            (SYSTEM, order.asset): bought - order.quantity,
        }
    else:
        amounts = {
            (CONTRACTS, order.asset): -order.quantity,
            (MARKET, order.asset): sold,
            (MARKET, USDT): -bought,
            (FUND, order.asset): order.quantity - sold,
            (FUND, USDT): bought - order.quoted_usdt,
            (user, USDT): order.quoted_usdt,
        }
    return {place: amount for place, amount in amounts.items() if amount}


def differences(expected: Residue, found: Residue) -> list[str]:
    """Where the ledger has something else than it should, as text: account, asset, found,
    expected.
    """
    places = sorted({*expected, *found})
    return [
        f"{account} {asset}: {found.get((account, asset), Decimal(0))} instead of {expected.get((account, asset), Decimal(0))}"
        for account, asset in places
        if found.get((account, asset), Decimal(0)) != expected.get((account, asset), Decimal(0))
    ]


def slippage_of(order: Placed, residue: Residue) -> Decimal | None:
    """Slippage in USDT from the ledger alone: what the market gave less what it took, coin valued
    at the order's quote. None: nothing was exchanged. Scale 8, half-even.
    """
    with localcontext(prec=80):
        usdt, coin = _in(residue, MARKET, USDT), _in(residue, MARKET, order.asset)
        if not usdt and not coin:
            return None
        return (-usdt - coin * order.quoted_usdt / order.quantity).quantize(SLIPPAGE_UNIT, rounding=ROUND_HALF_EVEN)


def slippage_as_before(order: Placed, residue: Residue) -> Decimal | None:
    """The same as the release before has stored it: coin valued at the market that the order met.
    The release after this one removes it.
    """
    with localcontext(prec=80):
        exact = _open_slippage(order, residue) if order.direction == "OPEN" else _close_slippage(order, residue)
        return None if exact is None else exact.quantize(SLIPPAGE_UNIT, rounding=ROUND_HALF_EVEN)


def _open_slippage(order: Placed, residue: Residue) -> Decimal | None:
    bought = -_in(residue, MARKET, order.asset)
    return _in(residue, SYSTEM, order.asset) * order.quoted_usdt / bought + _in(residue, FUND, USDT) if bought else None


def _close_slippage(order: Placed, residue: Residue) -> Decimal | None:
    sold, got = _in(residue, MARKET, order.asset), -_in(residue, MARKET, USDT)
    return _in(residue, FUND, USDT) + _in(residue, FUND, order.asset) * got / sold if sold else None


def _in(residue: Residue, account: str, asset: str) -> Decimal:
    return residue.get((account, asset), Decimal(0))


def faults_of(order: Placed, effects: Sequence[Effect], residue: Residue, stored_slippage: Decimal | None) -> list[str]:
    """What rule 12 finds wrong with a cleared order; empty when it holds."""
    faults = [f"step {step} was never applied" for step in lacking(effects)]
    faults += [f"{key} was applied after a later step" for key in disordered(effects)]
    faults += badly_exchanged(order, effects)
    faults += differences(expected_residue(order, effects), residue)
    in_ledger = slippage_of(order, residue)
    if stored_slippage not in (in_ledger, slippage_as_before(order, residue)):
        faults.append(f"slippage: {in_ledger} in the ledger, {stored_slippage} stored")
    return faults


def total_slippage(orders: Iterable[Placed], residues: Mapping[str, Residue]) -> Decimal:
    """The sum of the ledger's slippage."""
    with localcontext(prec=80):
        return sum((slippage_of(order, residues.get(order.order_id, {})) or Decimal(0) for order in orders), Decimal(0))
