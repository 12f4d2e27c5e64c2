"""The guard of commands that place orders or make users: they refuse to run in production."""

from django.conf import settings
from django.core.management.base import CommandError


def refuse_in_production(command: str, does: str) -> None:
    """Raises CommandError where ENVIRONMENT is production. `does` says what the command would
    do.
    """
    if settings.PRODUCTION:
        raise CommandError(f"{command} {does}: it doesn't run in production; set ENVIRONMENT=development where the counterparties are a sandbox")
