"""Which lane queue a user's orders go to: a stable hash, the same in every process and release."""

from zlib import crc32

from django.conf import settings


def lane_of(user_id: str) -> int:
    """The number of the queue that the user's lane is folded onto, 0 to CLEARING_LANES - 1."""
    return crc32(user_id.encode()) % int(settings.CLEARING_LANES)
