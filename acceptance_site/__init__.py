from base.collector import uncollected

with uncollected():
    from acceptance_site.celery import app as celery_app

__all__ = ["celery_app"]
