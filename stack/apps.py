from django.apps import AppConfig


class StackConfig(AppConfig):
    name = "stack"
    default_auto_field = "django.db.models.BigAutoField"
