"""All settings of the service, from the environment, grouped by topic.

Development has safe defaults; `ENVIRONMENT=production` needs its secrets and addresses. In
development, what the environment doesn't name is taken from `.run/stack.env`, which the embedded
stack writes (`manage.py stack up`). docs/configuration.md lists the variables; whatever is wrong
with them is printed at the end, and the process exits with 78 (acceptance_site/configuration.py).
"""

import re
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import django_stubs_ext

from acceptance_site import contradictions, production
from acceptance_site.addresses import are_servers, is_broker_address, is_web_address
from acceptance_site.configuration import Configuration
from acceptance_site.unfold import UNFOLD  # noqa: F401 the admin reads it here
from base import logs
from base.kafka import KafkaSecurity, WrongSecurity
from base.seal_key import is_private_key
from base.zookeeper import SESSION_SECONDS, WrongAddress, parse_address

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
config = Configuration()
env = config.env

# --- Where we are ---------------------------------------------------------------------------------
ENVIRONMENT = config.environment(BASE_DIR)
PRODUCTION = config.production = ENVIRONMENT == "production"
RUN_DIR = Path(config.folder("RUN_DIR", str(BASE_DIR / ".run")))
if not PRODUCTION:
    env.read_env(str(RUN_DIR / "stack.env"), recurse=False, override=False)
config.refuse_without_assertions()
VERSION = config.text("SERVICE_VERSION", "0.1.0")
PROCESS_ROLE = config.text("PROCESS_ROLE")  # what this process is, for the list of nodes and PostgreSQL's of sessions

# --- Django ---------------------------------------------------------------------------------------
SECRET_KEY = config.required("SECRET_KEY", config.development_secret("SECRET_KEY", BASE_DIR), form="a long random text")
DEBUG = config.boolean("DEBUG", False)
ALLOWED_HOSTS = [
    host.strip()
    for host in config.required("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1],testserver", form="admin.example,127.0.0.1").split(",")
    if host.strip()
]
WEB_PORT = config.whole("WEB_PORT", 8000, least=1, most=65_535)  # where the embedded stack serves the admin; the demo tells
SANDBOX_PORT = config.whole("SANDBOX_PORT", 8100, least=1, most=65_535)  # where the sandbox listens without --port
CSRF_TRUSTED_ORIGINS = config.words("CSRF_TRUSTED_ORIGINS", [], pattern=r"https?://[^/\s]+", form="https://admin.example")
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin.apps.SimpleAdminConfig",  # the pages are imported by urls.py: workers need none
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "csp",
    "axes",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "base",
    "orders",
    "clearing",
    "ops",
    *(app for app in ("sandbox", "stack") if not PRODUCTION and (BASE_DIR / app).is_dir()),  # an image holds the service alone
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "base.parameters.refuse_nul",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "base.desk.actor.remember_request",
    "base.desk.sessions.end_after_a_working_day",
    "base.desk.sessions.require_second_factor",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
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
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_HASHERS = ["base.desk.hashing.KeptHash"]
# A session ends after a working day, and with the browser.
SESSION_COOKIE_AGE = int(3600 * config.number("SESSION_HOURS", 8.0, least=0.25, most=24))
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
# So long after authenticating again a person may approve without doing it once more.
APPROVAL_FRESH_SECONDS = config.whole("APPROVAL_FRESH_SECONDS", 300, least=10, most=900)
# Proxies in front of the web process that append to X-Forwarded-For: where a request comes from.
PROXY_COUNT = config.whole("PROXY_COUNT", 0, least=0, most=10)
# Passwords that are wrong so often, of one user from one address or from one address at all, are
# refused for a while without being looked at.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = config.whole("SIGN_IN_FAILURES_MAX", 10, least=3, most=100)
AXES_COOLOFF_TIME = timedelta(minutes=config.number("SIGN_IN_LOCK_MINUTES", 15.0, least=1, most=1_440))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"], "ip_address"]
AXES_CLIENT_IP_CALLABLE = "base.desk.actor.address_of"
AXES_LOCKOUT_CALLABLE = "base.desk.sessions.locked_out"
AXES_RESET_ON_SUCCESS = False  # it would forget what was tried with others' names from the address, too
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # a flood makes no lock longer, and fills no table
AXES_ENABLE_ADMIN = False
AXES_DISABLE_ACCESS_LOG = True  # the desk's own record has it
AXES_VERBOSE = False
# A second factor (TOTP) beside the password; production can't do without.
SECOND_FACTOR = config.one_of("SECOND_FACTOR", *(("required", "off") if PRODUCTION else ("off", "required"))) == "required"
OTP_TOTP_ISSUER = "Acceptance service"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["acceptance_site.formats"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = not PRODUCTION  # no collectstatic in a checkout
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if config.boolean("BEHIND_TLS_PROXY", PRODUCTION) else None
SECURE_SSL_REDIRECT = config.boolean("SECURE_SSL_REDIRECT", True) and PRODUCTION
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]  # probes come from inside, without TLS
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = PRODUCTION
SECURE_HSTS_PRELOAD = PRODUCTION
# What the admin's pages may load and run: their own files alone. Alpine and htmx evaluate the
# expressions of attributes ('unsafe-eval'; a page's own scripts must still be files), and htmx and
# Chart.js set styles ('unsafe-inline' of styles). Django has a policy of its own from 6.0 on.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'", "'unsafe-eval'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
    }
}
SESSION_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_SECURE = PRODUCTION

# --- PostgreSQL -----------------------------------------------------------------------------------
# Every session has timeouts, so that a frozen process can't hold rows (design, rule 6). Migrations
# run with DATABASE_STATEMENT_MS_MAX=0.
DATABASE_URL, _DATABASE = config.database("DATABASE_URL", "postgresql://acceptance@127.0.0.1:1/stack-is-not-up")
DATABASE_PLAINTEXT = config.boolean("DATABASE_PLAINTEXT", False)  # production: the network is closed, nobody else can listen
DATABASE_STATEMENT_MS_MAX = config.whole("DATABASE_STATEMENT_MS_MAX", 10_000, least=0, most=3_600_000)
DATABASE_ROLL_BACK = config.boolean("DATABASE_ROLL_BACK", False)  # `migrate` of an older release installs its functions over a newer one's
DATABASE_SESSION = {
    "lock_timeout": config.whole("DATABASE_LOCK_MS_MAX", 3_000, least=1, most=3_600_000),
    "statement_timeout": DATABASE_STATEMENT_MS_MAX,
    "transaction_timeout": 2 * DATABASE_STATEMENT_MS_MAX,
    "idle_in_transaction_session_timeout": config.whole("DATABASE_IDLE_MS_MAX", 5_000, least=100, most=3_600_000),
}
DATABASES: dict[str, Any] = {"default": _DATABASE}
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
KAFKA_BOOTSTRAP_SERVERS = [
    server.strip() for server in config.required("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1", fits=are_servers, form="host:port,host:port").split(",")
]
KAFKA_TOPIC = config.text("KAFKA_TOPIC", "counter.sync_order", pattern=r"[\w.-]{1,249}", form="a topic's name")
KAFKA_SECURITY_PROTOCOL = config.text("KAFKA_SECURITY_PROTOCOL")
KAFKA_PLAINTEXT = config.boolean("KAFKA_PLAINTEXT", False)
KAFKA_SECURITY = config.checked(
    KafkaSecurity,
    KafkaSecurity(),
    WrongSecurity,
    protocol=KAFKA_SECURITY_PROTOCOL or "PLAINTEXT",
    mechanism=config.text("KAFKA_SASL_MECHANISM"),
    username=config.text("KAFKA_SASL_USERNAME"),
    password=config.text("KAFKA_SASL_PASSWORD"),
    cafile=config.text("KAFKA_SSL_CAFILE"),
    certfile=config.text("KAFKA_SSL_CERTFILE"),
    keyfile=config.text("KAFKA_SSL_KEYFILE"),
    key_password=config.text("KAFKA_SSL_KEY_PASSWORD"),
)
KAFKA_GROUP = config.text("KAFKA_GROUP", "acceptance")
KAFKA_INSTANCE_ID = config.text(
    "KAFKA_INSTANCE_ID", pattern=r"[\w.-]{1,249}", form="letters, digits, dots and dashes"
)  # a stable id per slot makes the member static; empty: dynamic
# For a broker that answers a fetch at once even if there is nothing (the emulator of the embedded
# stack): how long to leave it alone then. A real Kafka waits for data itself; 0.
KAFKA_IDLE_SLEEP_MS = config.whole("KAFKA_IDLE_SLEEP_MS", 0, least=0, most=10_000, former="KAFKA_IDLE_PAUSE_MS")
# How a group's members share the partitions: cooperative-sticky moves only what must move; the
# emulator gives its second member nothing then.
KAFKA_ASSIGNMENT = config.one_of("KAFKA_ASSIGNMENT", "cooperative-sticky", "range")
# A consumer that is stuck in one call for so long ends itself.
CONSUMER_STALL_SECONDS_MAX = config.number("CONSUMER_STALL_SECONDS_MAX", 60.0, least=10, most=86_400)
INTAKE_BATCH_ROWS_MAX = config.whole("INTAKE_BATCH_ROWS_MAX", 500, least=1, most=10_000)  # 25 % faster than 200
INTAKE_TABLE = config.text("INTAKE_TABLE", "counter.sync_order", pattern=r"[^.\s]+\.[^.\s]+", form="database.table")  # database.table of the binlog
# Our names of the sync-order table's columns: theirs, as JSON, where they differ; and the zone of a
# created_at that names none.
INTAKE_COLUMNS = config.columns(
    "INTAKE_COLUMNS",
    {
        *("order_id", "user_id", "shard", "sequence", "kind", "contract_id", "direction", "asset"),
        *("quantity", "quoted_usdt", "instrument", "created_at", "mac", "mac_key_id"),
    },
)
# Whether a row must carry the counter's MAC to be an order (design, rule 14), by which keys, and
# from which moment on by the counter's clock: older rows have none.
INTAKE_MAC = config.one_of("INTAKE_MAC", *(("required", "off") if PRODUCTION else ("off", "required"))) == "required"
INTAKE_KEYS = config.keys("INTAKE_KEYS") or ({} if PRODUCTION else {"development": config.development_secret("INTAKE_KEYS", BASE_DIR)})
INTAKE_MAC_SINCE = config.moment_or_none("INTAKE_MAC_SINCE")
INTAKE_ZONE = config.zone("INTAKE_ZONE")
INTAKE_EXCHANGE_KINDS = config.words(
    "INTAKE_EXCHANGE_KINDS", ["EXCHANGE"], form="kinds, separated by commas"
)  # what else comes is filtered and counted
# Which order ids the counter gives, as a regular expression for the whole id: what has another form
# is no order of its, or an alias of one (`o77` of `O77`), which it may take for the same.
INTAKE_ORDER_ID_PATTERN = config.regular_expression("INTAKE_ORDER_ID_PATTERN", r"[A-Za-z0-9._~-]{1,64}")
# Orders created before this moment are filtered and counted, from whatever source (design, rule 2):
# a first start doesn't clear the past again.
INTAKE_SINCE = config.moment("INTAKE_SINCE", "2020-01-01T00:00:00+00:00")
GAP_PASS_SECONDS = config.number("GAP_PASS_SECONDS", 3.0, least=0.1, most=86_400)
GAP_OVERLAP_MS = config.whole("GAP_OVERLAP_MS", 30_000, least=0, most=3_600_000)
GAP_PAGE_ROWS = config.whole("GAP_PAGE_ROWS", 500, least=1, most=1_000)
# A quarantined message that was replayed is kept for so long; one that wasn't, for ever.
QUARANTINE_DAYS = config.number("QUARANTINE_DAYS", 90.0, least=1, most=36_500)
TIDY_SECONDS = config.number("TIDY_SECONDS", 3_600.0, least=1, most=604_800)
RECONCILE_SECONDS = config.number("RECONCILE_SECONDS", 600.0, least=1, most=86_400)
RECONCILE_HOURS = config.number("RECONCILE_HOURS", 24.0, least=0.1, most=8_760)
RECONCILE_SETTLE_MS = config.whole(
    "RECONCILE_SETTLE_MS", 60_000, least=0, most=3_600_000
)  # orders younger than this are left to the stream and the gap pass

# --- Counterparties -------------------------------------------------------------------------------
COUNTERPARTIES = ("counter", "fund", "trading")
WEB_ADDRESS = "http(s)://host[:port][/path], without query, user or password"
COUNTERPARTY_URLS = {
    name: config.required(f"{name.upper()}_URL", f"http://127.0.0.1:1/{name}", fits=is_web_address, form=WEB_ADDRESS).rstrip("/")
    for name in COUNTERPARTIES
}
COUNTERPARTY_KEYS = {
    name: config.required(f"{name.upper()}_KEY", config.development_secret(f"{name.upper()}_KEY", BASE_DIR), form="the secret shared with it")
    for name in COUNTERPARTIES
}
# "http", or the dotted path of a factory (benchmarks and tests bring one of their own)
GATEWAY_KIND = config.text("GATEWAY_KIND", "http", pattern=r"\w+(\.\w+)+", form="http or the dotted path of a factory")
GATEWAY_DEADLINE_MS = config.whole("GATEWAY_DEADLINE_MS", 5_000, least=1, most=300_000)  # of one call in total, connecting included
GATEWAY_CALLS_MAX = config.whole("GATEWAY_CALLS_MAX", 12, least=1, most=1_000)  # in flight per counterparty and process; below a worker's threads
GATEWAY_SLOT_WAIT_MS = config.whole("GATEWAY_SLOT_WAIT_MS", 50, least=0, most=60_000)
# Calls a second to each counterparty, of all processes together; 0: no limit.
COUNTERPARTY_RATES = {name: config.number(f"{name.upper()}_CALLS_PER_SECOND_MAX", 0.0, least=0, most=1_000_000) for name in COUNTERPARTIES}
# A breaker opens when so many calls of one process failed within the window, and half of all, or
# one after another; fewer would open it by chance.
BREAKER_FAILURES_MIN = config.whole("BREAKER_FAILURES_MIN", 5, least=1, most=10_000)
BREAKER_WINDOW_SECONDS = config.number("BREAKER_WINDOW_SECONDS", 10.0, least=0.1, most=3_600)  # longer than a deadline, so that timeouts add up

# --- Clearing -------------------------------------------------------------------------------------
CLEARING_LANES = config.whole("CLEARING_LANES", 16, least=1, most=1_024)
# False: the plain chain, a broker trip a step, to compare.
CLEARING_RUN_STEPS_INLINE = config.boolean("CLEARING_RUN_STEPS_INLINE", True, former="CLEARING_CONTINUE_IN_PLACE")
# A status query, a call, and the writing.
CLEARING_CLAIM_SECONDS = config.number("CLEARING_CLAIM_SECONDS", 2 * GATEWAY_DEADLINE_MS / 1000 + 2, least=0.1, most=3_600)
CLEARING_NEXT_IN_PLACE_MAX = config.whole(
    "CLEARING_NEXT_IN_PLACE_MAX", 20, least=0, most=10_000
)  # orders of one user that a thread runs before it lets others in
# Sure failures of one operation before the order parks: some two hours of a counterparty that
# refuses connections, not a short outage, which would park the order of every user after one
# another.
CLEARING_ATTEMPTS_MAX = config.whole("CLEARING_ATTEMPTS_MAX", 500, least=1, most=1_000_000)
# Of an order; more below the market's minimum lot parks it.
CLEARING_DUST_SHARE_MAX = config.decimal("CLEARING_DUST_SHARE_MAX", Decimal("0.01"), least=Decimal(0), most=Decimal("0.05"))
# Bounds of money (design, rule 13). An execution whose slippage, gain or loss, is more than so many
# hundredths of a percent of the quote parks the order before its next step; 0: off.
CLEARING_MAX_SLIPPAGE_BPS = config.decimal("CLEARING_MAX_SLIPPAGE_BPS", Decimal(300), least=Decimal(0), most=Decimal(1_000_000))
# Above this amount of an order it takes two operators to let it go on then.
CLEARING_SLIPPAGE_TWO_OPERATORS_USDT = config.decimal(
    "CLEARING_SLIPPAGE_TWO_OPERATORS_USDT", Decimal(50_000), least=Decimal(0), most=Decimal(10) ** 18
)
# A fill further from the quote isn't believed; typed, it is refused. Can't be off.
CLEARING_HARD_SLIPPAGE_BPS = config.decimal("CLEARING_HARD_SLIPPAGE_BPS", Decimal(2_000), least=Decimal(1), most=Decimal(10_000))
# By how much a fill may differ from the price that it states.
CLEARING_FILL_FEE_MAX_BPS = config.decimal("CLEARING_FILL_FEE_MAX_BPS", Decimal(50), least=Decimal(0), most=Decimal(1_000))
# What one order may move, what one user's orders of a day (UTC, as they are accepted), and what all
# orders that start within a minute; 0: no limit.
CLEARING_ORDER_USDT_MAX = config.decimal("CLEARING_ORDER_USDT_MAX", Decimal(1_000_000), least=Decimal(0), most=Decimal(10) ** 18)
CLEARING_USER_USDT_PER_DAY_MAX = config.decimal("CLEARING_USER_USDT_PER_DAY_MAX", Decimal(50_000_000), least=Decimal(0), most=Decimal(10) ** 24)
CLEARING_USDT_PER_MINUTE_MAX = config.decimal("CLEARING_USDT_PER_MINUTE_MAX", Decimal(1_000_000_000), least=Decimal(0), most=Decimal(10) ** 24)
CLEARING_PARTS_MAX = 3  # of an exchange: the first and two for the remainder (design, section 2)
RETRY_BASE_MS = config.whole("RETRY_BASE_MS", 200, least=1, most=3_600_000)
RETRY_CAP_MS = config.whole("RETRY_CAP_MS", 30_000, least=1, most=86_400_000)
# After a claim's end no counterparty applies a request any more when this has passed (design, rule
# 7): its signature's validity (contracts, 2.2), the difference of the clocks, and a call's
# deadline.
SIGNATURE_VALIDITY_SECONDS = config.number("SIGNATURE_VALIDITY_SECONDS", 30.0, least=1, most=86_400)
CLOCK_SKEW_SECONDS_MAX = config.number("CLOCK_SKEW_SECONDS_MAX", 10.0, least=0, most=3_600)
REQUEST_TRANSIT_SECONDS = SIGNATURE_VALIDITY_SECONDS + CLOCK_SKEW_SECONDS_MAX + GATEWAY_DEADLINE_MS / 1000
# A key older than this isn't sent again: a day less than the contract's (docs/contracts/README.md).
# An order that parks for it steps aside, so that its last request must have been applied by then,
# or never.
KEY_RETENTION_SECONDS = int(config.number("KEY_RETENTION_SECONDS", 6 * 24 * 3600, least=1, most=3_153_600_000))
# An intervention that nobody approves for so long expires.
INTERVENTION_HOURS = config.number("INTERVENTION_HOURS", 24.0, least=0.01, most=8_760)
# Read by `migrate`, which writes it into the database: no process can choose its own.
APPROVER_SETTLED_HOURS = config.number("APPROVER_SETTLED_HOURS", 24.0, least=1 if PRODUCTION else 0, most=8_760)
# Retries by one operator within an hour; more need a second person.
RETRIES_ALONE_MAX = config.whole("RETRIES_ALONE_MAX", 20, least=0, most=100_000)
# An order that waits for an operator for so long raises its alarm again.
PARKED_REMINDER_SECONDS = config.number("PARKED_REMINDER_SECONDS", 900.0, least=1, most=604_800)
SWEEP_SECONDS = config.number("SWEEP_SECONDS", 1.0, least=0.1, most=3_600)
SWEEP_ROWS_MAX = config.whole("SWEEP_ROWS_MAX", 200, least=1, most=100_000)
# A queued clearing that nobody claims for so long may have lost its message.
SWEEP_UNCLAIMED_AFTER_SECONDS = config.number("SWEEP_UNCLAIMED_AFTER_SECONDS", 2.0, least=0.1, most=3_600, former="SWEEP_GONE_SECONDS")
ASSET_SCALES = {"USDT": 6, "BTC": 8, "ETH": 8}  # decimals; amounts are cut to them, downwards

# --- Celery: acceptance_site/celery.py explains each of the traps that these settings deal with ---
BROKER_URL = config.required("BROKER_URL", "redis://127.0.0.1:1/0", fits=is_broker_address, form="redis://user:password@host:6379/0")
BROKER_PLAINTEXT = config.boolean("BROKER_PLAINTEXT", False)

# --- Leadership -----------------------------------------------------------------------------------
# Unset: a lease in PostgreSQL, which needs no further server.
LEADERSHIP = config.checked(
    parse_address,
    None,
    WrongAddress,
    url=config.text("LEADERSHIP_URL"),
    session_seconds=config.number("ZOOKEEPER_SESSION_SECONDS", 4.0, least=SESSION_SECONDS[0], most=SESSION_SECONDS[1]),
    username=config.text("ZOOKEEPER_USER"),
    password=config.text("ZOOKEEPER_PASSWORD"),
    cafile=config.text("ZOOKEEPER_SSL_CAFILE"),
    certfile=config.text("ZOOKEEPER_SSL_CERTFILE"),
    keyfile=config.text("ZOOKEEPER_SSL_KEYFILE"),
    key_password=config.text("ZOOKEEPER_SSL_KEY_PASSWORD"),
)
ZOOKEEPER_PLAINTEXT = config.boolean("ZOOKEEPER_PLAINTEXT", False)
LEADER_LEASE_SECONDS = config.number("LEADER_LEASE_SECONDS", 4.0, least=1, most=60)  # of silence, until another takes over
# Of a transaction under a term: a frozen leader's keeps the next waiting no longer.
FENCE_MS_MAX = config.whole("FENCE_MS_MAX", 3_000, least=500, most=60_000)

# --- Logs -----------------------------------------------------------------------------------------
LOG_LEVEL = config.one_of("LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL", upper=True)
LOG_FORMAT = config.one_of("LOG_FORMAT", *logs.FORMATS)
LOGGING = logs.django_logging(LOG_FORMAT, LOG_LEVEL, config.secrets_read)

# --- Alarms: base/alarms.py -----------------------------------------------------------------------
# Empty: log and metric alone.
ALARM_WEBHOOK_URL = config.optional(
    "ALARM_WEBHOOK_URL", fits=partial(is_web_address, query=True), form="http(s)://host[:port]/path, without user or password"
)
ALARM_WEBHOOK_KEY = config.text("ALARM_WEBHOOK_KEY")
# The same alarm about the same order isn't sent again sooner.
ALARM_REPEAT_SECONDS = config.number("ALARM_REPEAT_SECONDS", 60.0, least=0, most=86_400)

# --- History: ops/seals ---------------------------------------------------------------------------
# Empty: seals aren't signed; production is told of it every hour.
SEAL_KEY = config.optional("SEAL_KEY", fits=is_private_key, form="an Ed25519 key in PEM (openssl genpkey -algorithm ed25519), by SEAL_KEY_FILE")

# --- Metrics --------------------------------------------------------------------------------------
METRICS_DIR = config.folder("METRICS_DIR")  # a folder that the processes of one machine share; empty: each process has its own
METRICS_PORT = config.whole("METRICS_PORT", 0, least=0, most=65_535)  # an internal port where each process shows its own; 0: nowhere
# Who sends it (Authorization: Bearer …) is told what /readyz found, and /metrics.
MONITORING_TOKEN = config.optional(
    "MONITORING_TOKEN", fits=lambda token: bool(re.fullmatch(r"[!-~]{16,200}", token)), form="16 to 200 visible characters of ASCII"
)

contradictions.check(config, globals())
production.check(config, globals())
config.finish()
