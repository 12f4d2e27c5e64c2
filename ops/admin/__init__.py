"""The admin's pages that need more than one app: importing the modules registers them."""

from ops.admin import nodes, quarantine, site

__all__ = ["nodes", "quarantine", "site"]
