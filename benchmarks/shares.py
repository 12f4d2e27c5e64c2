"""Percentiles, the same in every figure; no Django, so that they serve before settings are read,
too.
"""

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted values lies."""
    return values[min(int(len(values) * share), len(values) - 1)]
