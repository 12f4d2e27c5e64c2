from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate

from base.collector import leave_alone
from base.functions import install_functions
from ops.history import generated_functions, guard_history


class OpsConfig(AppConfig):
    name = "ops"
    default_auto_field = "django.db.models.BigAutoField"
    generated_functions = staticmethod(generated_functions)

    def ready(self) -> None:
        leave_alone()
        # Django sends it to no app without models; clearing is the last one that has some
        post_migrate.connect(self.guard_history, sender=apps.get_app_config("clearing"))

    def guard_history(self, using: str, verbosity: int = 1, **_: Any) -> None:
        """A receiver of `post_migrate`."""
        install_functions(self, using=using, verbosity=verbosity)
        guard_history(using)
