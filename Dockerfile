# `service` runs every process of the service; `sandbox` adds what the stand-in for the counterparties needs, for development alone.
FROM python:3.11-slim AS service
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home --home-dir /srv/acceptance acceptance
WORKDIR /srv/acceptance/app
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt
COPY . .
RUN RUN_DIR=/tmp python manage.py collectstatic --noinput --verbosity 0
USER acceptance
EXPOSE 8000
CMD ["gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "4"]

FROM service AS sandbox
USER root
RUN pip install --require-hashes -r requirements-dev.txt && mkdir /data && chown acceptance /data
USER acceptance
