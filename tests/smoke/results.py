"""What came of the checks."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.machine import Slowness


@dataclass(frozen=True)
class Result:
    """What came of a check. `result`: passed, failed or skipped; `why`: one line."""

    name: str
    result: str
    seconds: float
    why: str = ""

    def __str__(self) -> str:
        mark = {"passed": "ok     ", "failed": "FAILED ", "skipped": "skipped"}[self.result]
        return f"{mark} {self.seconds:7.1f} s  {self.name}" + (f": {self.why}" if self.why else "")


def summary(results: Sequence[Result], machine: Slowness, seconds: float) -> str:
    """One line a failure, then the counts."""
    failed = [f"FAILED {result.name}: {result.why}" for result in results if result.result == "failed"]
    counts = ", ".join(f"{sum(result.result == kind for result in results)} {kind}" for kind in ("passed", "failed", "skipped"))
    on_reference = (
        f"about {seconds / machine.factor:.0f} s on the reference machine" if machine.factor > 1 else "on a machine as fast as the reference"
    )
    return "\n".join([*failed, f"{counts} in {seconds:.0f} s, {on_reference}; {machine}"])


def as_json(results: Sequence[Result], machine: Slowness, seconds: float) -> str:
    """The same for programs."""
    passed = not any(result.result == "failed" for result in results)
    report = {"passed": passed, "seconds": round(seconds, 1), "slowness": round(machine.factor, 2), "checks": [asdict(result) for result in results]}
    return json.dumps(report, indent=2)
