from django.apps import AppConfig
from django.db.models.signals import post_migrate

from base.functions import install_functions


class BaseConfig(AppConfig):
    name = "base"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_migrate.connect(install_functions, sender=self)
