from django.apps import AppConfig
from django.db.models.signals import post_migrate

from base.functions import install_functions


class ClearingConfig(AppConfig):
    name = "clearing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from base.desk.roles import install_roles  # noqa: PLC0415 - models are ready only now

        post_migrate.connect(install_functions, sender=self)
        post_migrate.connect(install_roles, sender=self)  # here, since permissions of every app below exist by now

    @staticmethod
    def generated_functions() -> list[str]:
        """SQL that `install_functions` runs before `sql/*.sql`."""
        from clearing.store.state_machine import generated_functions  # noqa: PLC0415 - models are ready only now

        return generated_functions()
