from django.apps import AppConfig
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
        post_migrate.connect(install_functions, sender=self)
        post_migrate.connect(guard_history, sender=self)
