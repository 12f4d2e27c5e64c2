"""Percentiles, the same in every figure; no Django, so that they serve before settings are read,
too.
"""

from collections.abc import Sequence

from benchmarks.errors import BenchmarkError


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted values lies. Raises BenchmarkError when there
    are none.
    """
    if not values:
        raise BenchmarkError("nothing was measured: there are no values to take a percentile of")
    return values[min(int(len(values) * share), len(values) - 1)]
