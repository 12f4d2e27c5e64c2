"""How passwords are hashed."""

from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class KeptHash(PBKDF2PasswordHasher):
    """Django's own, but a sign-in doesn't hash an old password anew: the table would show a new
    password for every approver after each release of Django that raises the iterations.
    """

    def must_update(self, _encoded: Any) -> bool:
        return False
