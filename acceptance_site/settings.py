"""All settings of the service, from the environment, grouped by topic.

Development has safe defaults; `ENVIRONMENT=production` refuses to start without its secrets. In
development, what the environment doesn't name is taken from `.run/stack.env`, which the embedded
stack writes (`manage.py stack up`). README.md lists the variables.
"""

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dj_database_url
import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured
from environs import Env

from acceptance_site.unfold import UNFOLD  # noqa: F401 the admin reads it here
from base import logs
from base.kafka import KafkaSecurity, WrongSecurity
from base.zookeeper import WrongAddress, ZooKeeperAddress, parse_address

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
env = Env()

# --- Where we are ---------------------------------------------------------------------------------
ENVIRONMENT = env.str("ENVIRONMENT", "development")
if ENVIRONMENT not in {"development", "production"}:
    raise ImproperlyConfigured(f"ENVIRONMENT is {ENVIRONMENT!r}: set it to development or production")
PRODUCTION = ENVIRONMENT == "production"
RUN_DIR = Path(env.str("RUN_DIR", str(BASE_DIR / ".run")))
if not PRODUCTION:
    env.read_env(str(RUN_DIR / "stack.env"), recurse=False, override=False)
VERSION = env.str("SERVICE_VERSION", "0.1.0")
PROCESS_ROLE = env.str("PROCESS_ROLE", "")  # what this process is, for the list of nodes and PostgreSQL's of sessions


def required_in_production(name: str, development: str) -> str:
    """The variable's value; in production it must be set, elsewhere `development` stands in."""
    value = env.str(name, "")
    if value:
        return value
    if PRODUCTION:
        raise ImproperlyConfigured(f"{name} is not set: production doesn't start without it (README.md, 'Configuration')")
    return development


def development_secret(name: str) -> str:
    """A secret for development alone: differs from checkout to checkout, stays the same over
    restarts.
    """
    return hashlib.sha256(f"{name}:{BASE_DIR}".encode()).hexdigest()


def one_of(name: str, *choices: str) -> str:
    """The variable's value, which must be one of the choices; the first is the default."""
    value: str = env.str(name, choices[0])
    if value not in choices:
        raise ImproperlyConfigured(f"{name} is {value!r}: set it to one of {', '.join(choices)}")
    return value


def kafka_security(**variables: str) -> KafkaSecurity:
    """What reaching Kafka takes."""
    try:
        return KafkaSecurity(**variables)
    except WrongSecurity as error:
        raise ImproperlyConfigured(str(error)) from None


def zookeeper(**variables: Any) -> ZooKeeperAddress | None:
    """Where leadership is settled; None: in PostgreSQL."""
    try:
        return parse_address(**variables)
    except WrongAddress as error:
        raise ImproperlyConfigured(str(error)) from None


def columns(name: str) -> dict[str, str]:
    """The variable, a JSON object of our column names and theirs."""
    try:
        found = json.loads(env.str(name, "{}"))
    except ValueError as error:
        raise ImproperlyConfigured(f'{name} is not JSON ({error}): write it as in {{"created_at": "gmt_create"}}') from None
    ours = {"order_id", "user_id", "shard", "sequence", "kind", "contract_id", "direction", "asset"}
    ours |= {"quantity", "quoted_usdt", "instrument", "created_at"}
    if not isinstance(found, dict) or not all(isinstance(theirs, str) and theirs for theirs in found.values()) or found.keys() - ours:
        raise ImproperlyConfigured(f"{name} is {found!r}: its keys are of {', '.join(sorted(ours))}, its values column names")
    taken = {**{column: column for column in ours}, **found}
    if len(set(taken.values())) < len(taken):
        raise ImproperlyConfigured(f"{name} gives two of our columns the same one of theirs: {found!r}")
    return found


def at_least(name: str, default: float, *, least: float) -> float:
    """The variable, a number that isn't smaller than `least`."""
    value: float = env.float(name, default)
    if value < least:
        raise ImproperlyConfigured(f"{name} is {value:g}: set it to {least:g} or more")
    return value


def zone(name: str) -> ZoneInfo:
    """The variable, a time zone by its IANA name; UTC by default."""
    value = env.str(name, "UTC")
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ImproperlyConfigured(f"{name} is {value!r}: set it to a time zone's name, as Asia/Shanghai") from None


def is_web_address(text: str) -> bool:
    """Whether signed calls can be made to it."""
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment


# --- Django ---------------------------------------------------------------------------------------
SECRET_KEY = required_in_production("SECRET_KEY", development_secret("SECRET_KEY"))
DEBUG = env.bool("DEBUG", False)
if DEBUG and PRODUCTION:
    raise ImproperlyConfigured("DEBUG is on in production: unset it")
ALLOWED_HOSTS = [host for host in required_in_production("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1],testserver").split(",") if host]
WEB_PORT = env.int("WEB_PORT", 8000)  # where the embedded stack serves the admin; the demo tells
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "base",
    "orders",
    "clearing",
    "ops",
    *([] if PRODUCTION else ["sandbox", "stack"]),
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "base.parameters.refuse_nul",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "acceptance_site.urls"
WSGI_APPLICATION = "acceptance_site.wsgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["acceptance_site.formats"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not PRODUCTION  # no collectstatic in a checkout
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_TLS_PROXY", PRODUCTION) else None
SECURE_SSL_REDIRECT = PRODUCTION and env.bool("SECURE_SSL_REDIRECT", True)
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]  # probes come from inside, without TLS
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = PRODUCTION
SECURE_HSTS_PRELOAD = PRODUCTION
SESSION_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_SECURE = PRODUCTION

# --- PostgreSQL -----------------------------------------------------------------------------------
# Every session has timeouts, so that a frozen process can't hold rows (design, rule 6). Migrations
# run with DATABASE_STATEMENT_MS_MAX=0.
DATABASE_URL = required_in_production("DATABASE_URL", "postgresql://acceptance@127.0.0.1:1/stack-is-not-up")
DATABASE_STATEMENT_MS_MAX = env.int("DATABASE_STATEMENT_MS_MAX", 10_000)
DATABASE_ROLL_BACK = env.bool("DATABASE_ROLL_BACK", False)  # `migrate` of an older release installs its functions over a newer one's
DATABASE_SESSION = {
    "lock_timeout": env.int("DATABASE_LOCK_MS_MAX", 3_000),
    "statement_timeout": DATABASE_STATEMENT_MS_MAX,
    "transaction_timeout": 2 * DATABASE_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": env.int("DATABASE_IDLE_MS_MAX", 5_000),
    # Functions and foreign keys keep their plans for a session's life: one made while the tables
    # were empty would read them from end to end when they no longer are (measured: 9 ms of CPU an
    # order instead of 1.6, after a few thousand orders).
    "enable_seqscan": "off",
}
DATABASES: dict[str, Any] = {"default": dict(dj_database_url.parse(DATABASE_URL))}
DATABASES["default"]["CONN_MAX_AGE"] = None
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # of the web; workers and the consumer heal theirs themselves (base/db.py)
DATABASES["default"]["OPTIONS"] = {
    **DATABASES["default"].get("OPTIONS", {}),
    "options": " ".join(f"-c {name}={value}" for name, value in DATABASE_SESSION.items()),
    "application_name": PROCESS_ROLE or "acceptance",
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # ms; a server that vanished behind a partition is noticed, however much was sent to it
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

# --- Intake ---------------------------------------------------------------------------------------
KAFKA_BOOTSTRAP_SERVERS = required_in_production("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1").split(",")
KAFKA_TOPIC = env.str("KAFKA_TOPIC", "counter.sync_order")
KAFKA_SECURITY = kafka_security(
    protocol=env.str("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
    mechanism=env.str("KAFKA_SASL_MECHANISM", ""),
    username=env.str("KAFKA_SASL_USERNAME", ""),
    password=env.str("KAFKA_SASL_PASSWORD", ""),
    cafile=env.str("KAFKA_SSL_CAFILE", ""),
    certfile=env.str("KAFKA_SSL_CERTFILE", ""),
    keyfile=env.str("KAFKA_SSL_KEYFILE", ""),
    key_password=env.str("KAFKA_SSL_KEY_PASSWORD", ""),
)
KAFKA_GROUP = env.str("KAFKA_GROUP", "acceptance")
KAFKA_INSTANCE_ID = env.str("KAFKA_INSTANCE_ID", "")  # a stable id per slot makes the member static; empty: dynamic
# For a broker that answers a fetch at once even if there is nothing (the emulator of the embedded
# stack): how long to leave it alone then. A real Kafka waits for data itself; 0.
KAFKA_IDLE_PAUSE_MS = env.int("KAFKA_IDLE_PAUSE_MS", 0)
# How a group's members share the partitions: cooperative-sticky moves only what must move; the
# emulator gives its second member nothing then.
KAFKA_ASSIGNMENT = one_of("KAFKA_ASSIGNMENT", "cooperative-sticky", "range")
CONSUMER_STALL_SECONDS_MIN = 2 * DATABASE_STATEMENT_MS_MAX / 1000 + 10  # longer than a transaction may take, and any wait that is progress
CONSUMER_STALL_SECONDS_MAX = env.float("CONSUMER_STALL_SECONDS_MAX", 60.0)  # a consumer that is stuck in one call for so long ends itself
if CONSUMER_STALL_SECONDS_MAX < CONSUMER_STALL_SECONDS_MIN:
    raise ImproperlyConfigured(f"CONSUMER_STALL_SECONDS_MAX is {CONSUMER_STALL_SECONDS_MAX}: set it to {CONSUMER_STALL_SECONDS_MIN} or more")
INTAKE_BATCH_ROWS_MAX = env.int("INTAKE_BATCH_ROWS_MAX", 500)  # 25 % faster than 200
INTAKE_TABLE = env.str("INTAKE_TABLE", "counter.sync_order")  # database.table of the binlog
# Our names of the sync-order table's columns: theirs, as JSON, where they differ; and the zone of a
# created_at that names none.
INTAKE_COLUMNS = columns("INTAKE_COLUMNS")
INTAKE_ZONE = zone("INTAKE_ZONE")
INTAKE_EXCHANGE_KINDS = env.list("INTAKE_EXCHANGE_KINDS", ["EXCHANGE"])  # what else comes is filtered and counted
# Orders created before this moment are filtered and counted, from whatever source (design, rule 2):
# a first start doesn't clear the past again.
INTAKE_SINCE = datetime.fromisoformat(required_in_production("INTAKE_SINCE", "2020-01-01T00:00:00+00:00"))
if INTAKE_SINCE.tzinfo is None:
    INTAKE_SINCE = INTAKE_SINCE.replace(tzinfo=UTC)
GAP_PASS_SECONDS = env.float("GAP_PASS_SECONDS", 3.0)
GAP_OVERLAP_MS = env.int("GAP_OVERLAP_MS", 30_000)
GAP_PAGE_ROWS = env.int("GAP_PAGE_ROWS", 500)
RECONCILE_SECONDS = env.float("RECONCILE_SECONDS", 600.0)
RECONCILE_HOURS = env.float("RECONCILE_HOURS", 24.0)
RECONCILE_SETTLE_MS = env.int("RECONCILE_SETTLE_MS", 60_000)  # orders younger than this are left to the stream and the gap pass

# --- Counterparties -------------------------------------------------------------------------------
COUNTERPARTY_URLS = {
    name: required_in_production(f"{name.upper()}_URL", f"http://127.0.0.1:1/{name}").rstrip("/") for name in ("counter", "fund", "trading")
}
COUNTERPARTY_KEYS = {
    name: required_in_production(f"{name.upper()}_KEY", development_secret(f"{name.upper()}_KEY")) for name in ("counter", "fund", "trading")
}
GATEWAY_KIND = env.str("GATEWAY_KIND", "http")  # "http", or the dotted path of a factory (benchmarks and tests bring one of their own)
GATEWAY_DEADLINE_MS = env.int("GATEWAY_DEADLINE_MS", 5_000)  # of one call in total, connecting included
GATEWAY_CALLS_MAX = env.int("GATEWAY_CALLS_MAX", 12)  # in flight per counterparty and process; below a worker's threads
GATEWAY_SLOT_WAIT_MS = env.int("GATEWAY_SLOT_WAIT_MS", 50)
# Calls a second to each counterparty, of all processes together; 0: no limit.
COUNTERPARTY_RATES = {name: env.float(f"{name.upper()}_CALLS_PER_SECOND_MAX", 0.0) for name in ("counter", "fund", "trading")}
# A breaker opens when so many calls of one process failed within the window, and half of all, or
# one after another; fewer would open it by chance.
BREAKER_FAILURES_MIN = env.int("BREAKER_FAILURES_MIN", 5)
BREAKER_WINDOW_SECONDS = env.float("BREAKER_WINDOW_SECONDS", 10.0)  # longer than a deadline, so that timeouts add up

# --- Clearing -------------------------------------------------------------------------------------
CLEARING_LANES = env.int("CLEARING_LANES", 16)
CLEARING_CONTINUE_IN_PLACE = env.bool("CLEARING_CONTINUE_IN_PLACE", True)  # False: the plain chain, a broker trip a step, to compare
CLEARING_CLAIM_SECONDS = env.float("CLEARING_CLAIM_SECONDS", 2 * GATEWAY_DEADLINE_MS / 1000 + 2)  # a question, a call, and the writing
CLEARING_NEXT_IN_PLACE_MAX = env.int("CLEARING_NEXT_IN_PLACE_MAX", 20)  # orders of one user that a thread runs before it lets others in
# Sure failures of one operation before the order parks: some two hours of a counterparty that
# refuses connections, not a short outage, which would park the order of every user after one
# another.
CLEARING_ATTEMPTS_MAX = env.int("CLEARING_ATTEMPTS_MAX", 500)
CLEARING_DUST_SHARE_MAX = env.decimal("CLEARING_DUST_SHARE_MAX", Decimal("0.01"))  # of an order; more below the market's minimum lot parks it
# An execution whose slippage, gain or loss, is more than so many hundredths of a percent of the
# quote parks the order before step 4; 0: off.
CLEARING_MAX_SLIPPAGE_BPS = env.decimal("CLEARING_MAX_SLIPPAGE_BPS", Decimal(0))
CLEARING_PARTS_MAX = 3  # of an exchange: the first and two for the remainder (design, section 2)
RETRY_BASE_MS = env.int("RETRY_BASE_MS", 200)
RETRY_CAP_MS = env.int("RETRY_CAP_MS", 30_000)
# After a claim's end no counterparty applies a request any more when this has passed (design, rule
# 7): its signature's validity (contracts, 2.2), the difference of the clocks, and a call's
# deadline.
SIGNATURE_VALIDITY_SECONDS = env.float("SIGNATURE_VALIDITY_SECONDS", 30.0)
CLOCK_SKEW_SECONDS_MAX = env.float("CLOCK_SKEW_SECONDS_MAX", 10.0)
REQUEST_TRANSIT_SECONDS = SIGNATURE_VALIDITY_SECONDS + CLOCK_SKEW_SECONDS_MAX + GATEWAY_DEADLINE_MS / 1000
# A key older than this isn't sent again: a day less than the contract's (docs/contracts/README.md).
# An order that parks for it steps aside, so that its last request must have been applied by then,
# or never.
KEY_RETENTION_SECONDS = int(at_least("KEY_RETENTION_SECONDS", 6 * 24 * 3600, least=CLEARING_CLAIM_SECONDS + REQUEST_TRANSIT_SECONDS))
INTERVENTION_HOURS = env.float("INTERVENTION_HOURS", 24.0)  # an intervention that nobody approves for so long expires
PARKED_REMINDER_SECONDS = env.float("PARKED_REMINDER_SECONDS", 900.0)  # an order that waits for a person for so long raises its alarm again
SWEEP_SECONDS = env.float("SWEEP_SECONDS", 1.0)
SWEEP_ROWS_MAX = env.int("SWEEP_ROWS_MAX", 200)
SWEEP_GONE_SECONDS = env.float("SWEEP_GONE_SECONDS", 2.0)  # a queued clearing that nobody claims for so long may have lost its message
ASSET_SCALES = {"USDT": 6, "BTC": 8, "ETH": 8}  # decimals; amounts are cut to them, downwards

# --- Celery: acceptance_site/celery.py explains each of the traps that these settings deal with ---
BROKER_URL = required_in_production("BROKER_URL", "redis://127.0.0.1:1/0")

# --- Leadership -----------------------------------------------------------------------------------
# Unset: a lease in PostgreSQL, which needs no further server.
LEADERSHIP = zookeeper(
    url=env.str("LEADERSHIP_URL", ""),
    session_seconds=env.float("ZOOKEEPER_SESSION_SECONDS", 4.0),
    username=env.str("ZOOKEEPER_USER", ""),
    password=env.str("ZOOKEEPER_PASSWORD", ""),
)
LEADER_LEASE_SECONDS = at_least("LEADER_LEASE_SECONDS", 4.0, least=1.0)  # of silence, until another takes over
FENCE_MS_MAX = int(at_least("FENCE_MS_MAX", 3_000, least=500))  # of a transaction under a term: a frozen leader's keeps the next waiting no longer

# --- Logs -----------------------------------------------------------------------------------------
LOG_LEVEL = env.str("LOG_LEVEL", "INFO")
LOG_FORMAT = env.str("LOG_FORMAT", "json")  # or "console"
LOGGING = logs.django_logging(LOG_FORMAT, LOG_LEVEL)

# --- Alarms: base/alarms.py -----------------------------------------------------------------------
ALARM_WEBHOOK_URL = env.str("ALARM_WEBHOOK_URL", "")  # empty: log and metric alone
ALARM_WEBHOOK_KEY = env.str("ALARM_WEBHOOK_KEY", "")
ALARM_REPEAT_SECONDS = env.float("ALARM_REPEAT_SECONDS", 60.0)  # the same alarm about the same order isn't sent again sooner
if ALARM_WEBHOOK_URL and not is_web_address(ALARM_WEBHOOK_URL):
    raise ImproperlyConfigured(f"ALARM_WEBHOOK_URL is {ALARM_WEBHOOK_URL!r}: set it to http(s)://host[:port]/path, without user or password")
if ALARM_WEBHOOK_URL and not ALARM_WEBHOOK_KEY:
    raise ImproperlyConfigured("ALARM_WEBHOOK_KEY is not set: alarms are signed with it, so that the receiver knows them to be ours")

# --- Metrics --------------------------------------------------------------------------------------
METRICS_DIR = env.str("METRICS_DIR", "")  # a folder that the processes of one machine share; empty: each process has its own
METRICS_PORT = env.int("METRICS_PORT", 0)  # where a process without HTTP of its own shows them; 0: nowhere
