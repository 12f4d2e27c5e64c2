"""Template filters for values as people read them."""

from django.template import Library

register = Library()


@register.filter
def grouped(number: int) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,}"
