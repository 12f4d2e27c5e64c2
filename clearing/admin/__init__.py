"""The admin's pages of clearings: importing the modules registers them."""

from clearing.admin import clearings, counterparties, interventions

__all__ = ["clearings", "counterparties", "interventions"]
