from django.apps import AppConfig

from base.collector import leave_alone


class OpsConfig(AppConfig):
    name = "ops"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        leave_alone()
