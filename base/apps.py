from django.apps import AppConfig
from django.db.models.signals import post_migrate

from base.functions import install_functions


class BaseConfig(AppConfig):
    name = "base"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from base.desk import watch  # noqa: PLC0415 - models are ready only now

        post_migrate.connect(install_functions, sender=self)
        watch.start()

    @staticmethod
    def generated_functions() -> list[str]:
        """SQL that `install_functions` runs before `sql/*.sql`."""
        from base.desk.roles import generated_functions  # noqa: PLC0415 - models are ready only now

        return generated_functions()
