"""What a run has shown. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FINISHED = ("cleared", "voided", "parked")


@dataclass(frozen=True)
class Verdict:
    """Violations by kind: all of them must be 0. `rule_12`: cleared orders whose ledger isn't as it
    must be, and a ledger out of balance.
    """

    lost: int
    unplaced: int
    doubled: int
    out_of_order: int
    stranded: int
    parked_wrongly: int
    rule_12: int
    not_placed: int  # orders that the run was to place and didn't, and
    no_faults: bool  # no answer of a counterparty was faulty: it has proved nothing
    halted: Collection[str] = field(default_factory=list)  # processes that ended for good by themselves

    @property
    def passed(self) -> bool:
        """Nothing of that happened."""
        return not any(asdict(self).values())

    def as_json(self) -> dict[str, Any]:
        """With the verdict."""
        return {"passed": self.passed, **asdict(self)}


def judge(audit: Mapping[str, Any], halted: Collection[str], *, orders: int, faulty_answers: int | None) -> Verdict:
    """From the audit's JSON, taken when every order had time to clear. None of the faults is a
    reason to park an order.

    `orders`: to be placed; `faulty_answers`: that came, None where none was to come.
    """
    states: Mapping[str, int] = audit["by_state"]
    return Verdict(
        lost=audit["missing"]["count"],
        unplaced=audit["unplaced"]["count"],
        doubled=audit["doubled"]["count"],
        out_of_order=audit["out_of_order"]["count"],
        stranded=sum(count for state, count in states.items() if state not in FINISHED),
        parked_wrongly=states.get("parked", 0) + states.get("voided", 0),
        rule_12=audit["broken"]["count"] + (not audit["balanced"]),
        not_placed=max(0, orders - audit["placed"]),
        no_faults=faulty_answers == 0,
        halted=sorted(halted),
    )
