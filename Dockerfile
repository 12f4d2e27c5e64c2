# `service` runs every process of the service; `sandbox` adds the stand-in for the counterparties, for development alone.
# What goes in is named, file by file and folder by folder: nothing else of a checkout does, least of all a file of secrets (.dockerignore).
# `make digests` pins the image below to what its tag means today.
FROM python:3.11-slim AS service
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home --home-dir /srv/acceptance acceptance
WORKDIR /srv/acceptance/app
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt
COPY LICENSE NOTICE manage.py gunicorn.conf.py ./
COPY acceptance_site/ acceptance_site/
COPY base/ base/
COPY orders/ orders/
COPY clearing/ clearing/
COPY ops/ ops/
RUN ENVIRONMENT=development RUN_DIR=/tmp python manage.py collectstatic --noinput --verbosity 0
ENV ENVIRONMENT=production
USER acceptance
EXPOSE 8000
CMD ["gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "4"]

FROM service AS sandbox
USER root
COPY requirements-dev.txt ./
RUN pip install --require-hashes -r requirements-dev.txt && mkdir /data && chown acceptance /data
COPY sandbox/ sandbox/
ENV ENVIRONMENT=development
USER acceptance
