"""What `verify_history` says."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ops.seals.verify import Report


def verdict(report: Report) -> str:
    """One word."""
    if report.tampered:
        return "tampered"
    return "shorter" if report.is_shorter else "intact"


def as_json(report: Report, *, signed: bool) -> dict[str, Any]:
    """`signed`: whether signatures were looked at."""
    return {
        "verdict": verdict(report),
        "seals": report.seals,
        "rows": report.rows,
        "root": report.root,
        "signatures_checked": signed,
        "unsigned": report.unsigned,
        "not_covered": report.not_covered,
        "findings": [asdict(finding) for finding in report.findings],
    }


def lines(report: Report, *, signed: bool) -> Iterator[str]:
    """For people."""
    yield f"{report.seals:,} seals over {report.rows:,} rows; newest root {report.root or 'none'}"
    for finding in report.findings:
        ids = f" ids {', '.join(map(str, finding.ids))}" if finding.ids else ""
        yield f"TAMPERED  seal {finding.seal}: {finding.what} {finding.table}{ids}: {finding.detail}"
    if not signed:
        yield "signatures weren't looked at: name the key with --public-key"
    elif report.unsigned:
        yield f"{report.unsigned:,} seals from before the key was set aren't signed"
    for name, count in report.not_covered.items():
        yield f"not covered yet: {count:,} rows of {name}, newer than the newest seal"
    if report.is_shorter:
        yield "SHORTER  the chain ends before the root that was told outside, or there is none: restored from a backup, or cut off at its end"
    yield {"tampered": "TAMPERED", "shorter": "SHORTER", "intact": "INTACT"}[verdict(report)]
