"""What the leader does every minute: it looks at what was appended, and at the chain, and seals.

It looks before it seals: what is found stands in a seal all the same, since somebody appended it.
"""

import math
import time
from typing import Any, Final

from django.conf import settings

from base.alarms import alarm, notify
from base.db import call
from base.fence import Fence
from base.models import Seal
from base.seal_key import name_of, private_key
from ops.seals.chain import flaws, newest, read_contents
from ops.seals.ids import Ids
from ops.seals.rows import snapshot
from ops.seals.sealing import make_seal
from ops.seals.verify import Finding, row_findings, signature_findings

TAMPERED, UNPROVEN, UNSIGNED, SEALED = "history_tampered", "cleared_unproven", "seals_unsigned", "history_sealed"
SEALS_MAX: Final = 5  # of one pass: where all of the past is still to be sealed, the next minute goes on
UNSIGNED_EVERY_SECONDS: Final = 3_600
# Its operations' own columns are anybody's who writes the database; their attempts are history.
_UNPROVEN: Final = """
    SELECT DISTINCT o.order_id, s.step FROM ({orders}) t
    JOIN clearing_clearing c ON c.id = t.id JOIN orders_syncorder o ON o.id = c.order_id CROSS JOIN generate_series(1, 4) s(step)
    WHERE NOT EXISTS (SELECT FROM clearing_operation p WHERE p.clearing_id = c.id AND p.step = s.step AND (
        EXISTS (SELECT FROM clearing_attempt a WHERE a.operation_id = p.id AND a.outcome = 'done')
        OR EXISTS (SELECT FROM clearing_intervention i WHERE i.operation_id = p.id AND i.clearing_id = c.id AND i.kind = 'confirm_done'
            AND i.state = 'executed')))
    ORDER BY 1, 2 LIMIT 50
"""
_OF_THE_HISTORY: Final = _UNPROVEN.format(
    orders="SELECT clearing_id AS id FROM clearing_statuschange WHERE to_state = 'cleared' AND id BETWEEN %s AND %s AND id <@ %s::int8multirange"
)
_OF_THE_LAST_MINUTES: Final = _UNPROVEN.format(
    orders="SELECT id FROM clearing_clearing WHERE state = 'cleared' AND cleared_at > service_now() - interval '3 minutes'"
)
_seen: dict[str, Any] = {"number": 0, "root": "", "unsigned_at": -math.inf}  # by this process


def seal_history(fence: Fence) -> bool:
    """One pass. Raises what the database raises."""
    _check_cleared(_OF_THE_LAST_MINUTES, [])
    for _ in range(SEALS_MAX):
        before = newest()
        for finding in [*_chain_findings(before), *_patrol(before)]:
            _tell(finding)
        seal = make_seal(fence, before)
        if seal is None:
            break
        ids = Ids.read(read_contents(seal.text).sources["clearing_statuschange"].ids)
        _check_cleared(_OF_THE_HISTORY, [*ids.bounds, ids.multirange])
        _seen.update(number=seal.number, root=seal.root)
        notify(SEALED, "what was appended to history is sealed", seal=seal.number, root=f"{seal.number}:{seal.root}", key=seal.key)
        if not seal.key:
            _say_unsigned()
    return True


def _chain_findings(last: Seal | None) -> list[Finding]:
    """Whether the newest seal follows the one before it, bears our signature, and is the one that
    this process knows.
    """
    if _seen["number"] and (last is None or last.number < _seen["number"]):
        return [Finding("chain", _seen["number"], detail="seals were removed, or the database was restored from a backup")]
    if last is None:
        return []
    before = Seal.objects.filter(number__lt=last.number).order_by("-number").first()
    found = [Finding("chain", last.number, detail=flaw) for flaw in flaws(last, before.number + 1 if before else 1, before.root if before else "")]
    known = Seal.objects.filter(number=_seen["number"]).first()
    if _seen["number"] and (known is None or known.root != _seen["root"]):
        found.append(Finding("chain", _seen["number"], detail="it has another root than when it was made"))
    if settings.SEAL_KEY:
        key = private_key(settings.SEAL_KEY).public_key()
        found += signature_findings(last, before, {name_of(key): key})
    return found


def _patrol(last: Seal | None) -> list[Finding]:
    """The rows of the newest seal, and of an older one in turn: in as many minutes as there are
    seals, each comes.
    """
    if last is None:
        return []
    found: list[Finding] = []
    numbers = {last.number, int(time.time() // 60) % last.number + 1}
    with snapshot() as cursor:
        for seal in Seal.objects.filter(number__in=numbers):
            try:
                found += row_findings(cursor, read_contents(seal.text))
            except ValueError as error:
                found.append(Finding("chain", seal.number, detail=str(error)))
    return found


def _check_cleared(sql: str, parameters: list[Any]) -> None:
    """An order that is said to be cleared has an answer, or two people's word, for each step."""
    for order_id, step in call(sql, parameters):
        alarm(UNPROVEN, "an order is cleared, and nothing shows that a step was done", order_id=order_id, step=step)


def _tell(finding: Finding) -> None:
    ids = ", ".join(map(str, finding.ids))
    alarm(TAMPERED, "history isn't as it was sealed", seal=finding.seal, what=finding.what, table=finding.table, ids=ids, detail=finding.detail)


def _say_unsigned() -> None:
    if settings.PRODUCTION and time.monotonic() - _seen["unsigned_at"] > UNSIGNED_EVERY_SECONDS:
        _seen["unsigned_at"] = time.monotonic()
        alarm(UNSIGNED, "history is sealed without a signature: SEAL_KEY isn't set")
