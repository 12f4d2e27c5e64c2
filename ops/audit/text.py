"""The audit's report as lines for people."""

from collections.abc import Sequence

from base.readable import amount, duration
from ops.audit.report import EXAMPLES_MAX, Latency, Report


def audit_lines(report: Report, *, must_clear: bool = False) -> list[str]:
    """The whole report; `must_clear`: orders that aren't cleared make it fail."""
    states = ", ".join(f"{count:,} {state}" for state, count in report.by_state.items()) or "none"
    passed = report.passed and (report.all_cleared or not must_clear)
    return [
        f"placed            {report.placed:>10,}   at the counter",
        f"accepted          {report.accepted:>10,}   {report.late:,} of them late",
        f"cleared           {report.cleared:>10,}   by state: {states}",
        *_finding("missing", report.missing, "placed, but not in the database"),
        *_finding("unplaced", report.unplaced, "in the database, but never placed"),
        *_finding("doubled", report.doubled, "operations applied twice at the sandbox"),
        *_finding("out of order", report.out_of_order, "within a user's lane"),
        *_finding("ledger", [f"{order_id}: {'; '.join(faults)}" for order_id, faults in report.broken.items()], "cleared orders against rule 12"),
        f"balanced          {'yes' if report.balanced else 'NO':>10}   the ledger's sums",
        f"slippage, ledger  {amount(report.slippage_ledger_usdt):>16} USDT",
        f"slippage, stored  {amount(report.slippage_stored_usdt):>16} USDT",
        f"to accepted       {_latency(report.to_accepted)}",
        f"to cleared        {_latency(report.to_cleared)}",
        _verdict(report, passed=passed),
    ]


def _finding(name: str, found: Sequence[str], meaning: str) -> list[str]:
    lines = [f"{name:<18}{len(found):>10,}   {meaning}", *(f"    {example}" for example in found[:EXAMPLES_MAX])]
    return [*lines, f"    … and {len(found) - EXAMPLES_MAX:,} more"] if len(found) > EXAMPLES_MAX else lines


def _latency(latency: Latency) -> str:
    if latency.p50_ms is None or latency.p99_ms is None:
        return "no orders yet"
    return f"p50 {duration(latency.p50_ms / 1000)}, p99 {duration(latency.p99_ms / 1000)} over {latency.orders:,} orders"


def _verdict(report: Report, *, passed: bool) -> str:
    if passed:
        voided = f", {report.voided:,} voided by people" if report.voided else ""
        return f"PASSED: {report.cleared:,} orders cleared{voided}, each step once, in order, to the last decimal"
    if report.passed:
        return f"FAILED: {report.placed - report.cleared - report.voided:,} placed orders aren't cleared yet; nothing else is wrong"
    return "FAILED: see above"
