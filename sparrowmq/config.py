"""Where settings come from: flag > environment > TOML file > default, and which of these a value came from.

Owns: loading, the names of the environment variables, how durations are written, the errors of bad settings, and
the one check that nothing is bound beyond loopback unasked. Must not know: what a component does with a setting.

A key is written ``section.name`` (``worker.slots``, ``scheduler.limits.jobs``); its environment variable is
SPARROWMQ_ and the key in capitals with underscores (SPARROWMQ_WORKER_SLOTS, SPARROWMQ_SCHEDULER_LIMITS_JOBS). A
key that ends in ``_s`` takes seconds, or a text such as "500ms", "14s", "2m", "1.5h". With _FILE behind its name, a
variable names a file whose content, stripped, is the value: that is how containers are handed secrets.
"""

from __future__ import annotations

import ipaddress
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_origin, get_type_hints

import msgspec

from sparrowmq.errors import ConfigError, UsageError
from sparrowmq.settings import (
    AssistantSettings,
    ClientSettings,
    HealthSettings,
    LogSettings,
    SchedulerSettings,
    SecuritySettings,
    StoreSettings,
    WorkerSettings,
)
from sparrowmq.store import target

ENVIRONMENT_PREFIX = "SPARROWMQ_"
CONFIG_VARIABLE = "SPARROWMQ_CONFIG"
FILE_BYTES_MAX = 1024 * 1024
FROM_FILE = "_FILE"
HIDDEN: Final = frozenset({"store.url", "store.password", "store.sentinel_password"})  # a message never shows these

# Kubernetes and Docker links put such variables into every container when a service is called sparrowmq-*.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")
_HEADER = re.compile(r"^\s*\[\s*([A-Za-z0-9_.\-\s]+?)\s*\]")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_.\-]+)\s*=")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|min|h|d|)")
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_EXAMPLES: Final = {
    "worker.preload": "expected a module, or module:function",
    "worker.allow": "expected module:function, or module:* for all public functions that the module defines",
}
_ADDRESS_EXAMPLE: Final = "expected an address such as tcp://127.0.0.1:7701 or ipc:///run/sparrowmq.sock"
_LONGER_THAN: Final = (  # what waits for silence must wait for longer than the questions' distance
    *((f"{part}.silent_after_s", f"{part}.ping_interval_s") for part in ("scheduler", "worker", "client")),
    ("store.ttl_s", "store.refresh_interval_s"),
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one process. ``sources`` tells for each key where its value came from."""

    scheduler: SchedulerSettings = SchedulerSettings()
    worker: WorkerSettings = WorkerSettings()
    assistant: AssistantSettings = AssistantSettings()
    client: ClientSettings = ClientSettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    security: SecuritySettings = SecuritySettings()
    health: HealthSettings = HealthSettings()
    sources: dict[str, str] = {}


def _sections() -> dict[str, type[msgspec.Struct]]:
    hints = get_type_hints(Config)
    return {name: hints[name] for name in Config.__struct_fields__ if name != "sources"}


def _leaves(prefix: str, struct: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(struct, include_extras=True)
    for field in struct.__struct_fields__:
        key, kind = f"{prefix}.{field}", hints[field]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from _leaves(key, kind)
        else:
            yield key, kind


def keys() -> dict[str, Any]:
    """Return every key with the type of its value, in the order of the Structs."""
    return {key: kind for name, struct in _sections().items() for key, kind in _leaves(name, struct)}


def variable(key: str) -> str:
    """Return the name of the environment variable of ``key``."""
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    exposed: bool = True,
) -> Config:
    """Return the settings of a process.

    ``path`` is a TOML file (None: the one that SPARROWMQ_CONFIG names, if any), ``environ`` the environment,
    ``flags`` values by key, where None means not given; ``exposed`` is False for what binds and connects nothing, and
    need not be safe. Raises ConfigError naming the source, the key, what was expected and what was found.
    """
    environ = environ or {}
    known = keys()
    path = path or environ.get(CONFIG_VARIABLE) or None
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    if path is not None:
        file = Path(path)
        for key, (value, line) in _read(file, known).items():
            where = f"{file}:{line}" if line else str(file)
            values[key] = _convert(key, value, known[key], where, strict=True)
            sources[key] = where
    for key, (text, where) in _from_environment(environ, known).items():
        values[key] = _convert(key, text, known[key], where, strict=False)
        sources[key] = where
    for key, value in (flags or {}).items():
        if value is None:
            continue
        if key not in known:
            raise _unknown(key, known, "flag")
        values[key] = _convert(key, value, known[key], "flag", strict=False)
        sources[key] = "flag"
    config = msgspec.structs.replace(msgspec.convert(_nest(values), Config), sources=sources)
    _check_store(config)
    _check_order(config)
    if exposed:
        check_exposure(config.scheduler, config.security)
    return config


def value_of(config: Config, key: str) -> Any:
    """Return the value of ``key`` (``section.name``)."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def shown(config: Config, key: str) -> Any:
    """Return the value of ``key`` as people may see it: without passwords."""
    value = value_of(config, key)
    if key not in HIDDEN or not value:
        return value
    return target.describe(value) if key == "store.url" else "(not shown)"


def duration_s(text: str) -> float:
    """Return the seconds that ``text`` means: "14s", "500ms", "2m", "1.5h", "1d" or plain seconds.

    Raises ValueError saying what was expected.
    """
    match = _DURATION.fullmatch(text.strip())
    value = float(match[1]) * _UNITS_S[match[2]] if match else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no duration: expected seconds, or a number and a unit: 500ms, 14s, 2m, 1.5h")
    return value


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return nested


def _is_list(kind: Any) -> bool:
    """Whether this type, annotated or not, is a list."""
    return get_origin(kind.__origin__ if hasattr(kind, "__metadata__") else kind) is list


def _convert(key: str, value: object, kind: Any, where: str, *, strict: bool) -> Any:
    try:
        if isinstance(value, str) and key.endswith("_s"):
            value = duration_s(value)
        if isinstance(value, str) and not strict and _is_list(kind):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "")
        if "matching regex" in reason:
            reason = _EXAMPLES.get(key, _ADDRESS_EXAMPLE)
        shown = "(not shown)" if key in HIDDEN else repr(value)
        raise ConfigError(f"{where}: {key}: {reason[:1].lower()}{reason[1:]}; the value is {shown}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {key}: {error}") from None


def _check_store(config: Config) -> None:
    """Raise for a Redis URL that cannot be one: UsageError where it was said on the command line, else ConfigError.

    So for credentials that are given twice.
    """
    url, source = config.store.url, config.sources["store.url"]
    if not url:
        return
    if reason := bad_store_url(url):
        if source == "flag":
            raise UsageError(f"--redis: {reason}", hint=target.EXAMPLE)
        raise ConfigError(f"{source}: store.url: {reason}", hint=target.EXAMPLE)
    parts = target.parse(url)
    for name in ("username", "password"):
        key = f"store.{name}"
        if value_of(config, key) and (parts.username or parts.password):
            raise ConfigError(
                f"{config.sources[key]}: {key} is set, and store.url ({source}) has a user or password, too",
                hint=f"remove one of them: store.url may be {target.describe(url).replace(f'{parts.username}@', '')}",
            )


def bad_store_url(url: str) -> str:
    """Return why ``url`` is no Redis URL, "" if it looks like one. The answer never holds a password."""
    try:
        target.parse(url)
    except ValueError as error:
        return str(error)
    return ""


def _check_order(config: Config) -> None:
    for longer, shorter in _LONGER_THAN:
        values = value_of(config, longer), value_of(config, shorter)
        if values[0] <= values[1]:
            where = {config.sources[key] for key in (longer, shorter)} - {"default"}
            raise ConfigError(
                f"{', '.join(sorted(where))}: {longer} = {values[0]:g} must be greater than {shorter} = {values[1]:g}",
                hint=f"three times {shorter} or more leaves room for one that is late",
            )


def _unknown(key: str, known: Mapping[str, Any], where: str) -> ConfigError:
    nearest = _nearest(key, known)
    hint = f"did you mean {nearest}?" if nearest else "config/default.toml lists every setting"
    return ConfigError(f"{where}: there is no setting {key}", hint=hint)


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    import difflib  # only a mistake pays for it

    return next(iter(difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)), "")


def _read(file: Path, known: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    """Return the file's values by key, each with its line (0: not found)."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror or error}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{file} is larger than {FILE_BYTES_MAX:,} bytes; that is no configuration file")
    try:
        text = raw.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    lines = _lines(text)
    tables = {key.rpartition(".")[0] for key in known}
    values: dict[str, tuple[Any, int]] = {}
    pending: list[tuple[str, Any]] = list(document.items())
    while pending:
        key, value = pending.pop()
        line = lines.get(key, 0)
        if key in known:
            values[key] = (value, line)
        elif key in tables and isinstance(value, dict):
            pending.extend((f"{key}.{name}", inner) for name, inner in value.items())
        elif key in tables:
            raise ConfigError(f"{file}:{line}: {key} is a table of settings; write [{key}] and its keys below")
        else:
            raise _unknown(key, {**known, **dict.fromkeys(tables)}, f"{file}:{line}" if line else str(file))
    return values


def _lines(text: str) -> dict[str, int]:
    """Return the line of each table header and assignment, as far as a look at single lines tells."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].replace(" ", "")
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            lines.setdefault(f"{table}.{assignment[1]}" if table else assignment[1], number)
    return lines


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what the environment sets: by key, its text and where that came from."""
    found: dict[str, tuple[str, str]] = {}
    for key, name in _named(environ, known):
        where = f"environment variable {name}"
        text = environ[name]
        if name != variable(key):
            where = f"{where}: {text}"
            text = _content(text, where)
        if key in found:
            raise ConfigError(f"{key} is given twice: by {found[key][1]} and by {where}", hint="unset one of them")
        found[key] = text, where
    return found


def _content(path: str, where: str) -> str:
    try:
        with open(path, "rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
        text = raw.decode().strip()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 text (byte {error.start})") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{where} is larger than {FILE_BYTES_MAX:,} bytes; that is no setting")
    return text


def _named(environ: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, variable) for each setting in the environment; a misspelt one is an error.

    A variable whose second word is not (nearly) a section belongs to somebody else: tasks, for example, find
    SPARROWMQ_JOB in their environment.
    """
    by_variable = {variable(key) + FROM_FILE: key for key in known} | {variable(key): key for key in known}
    sections = {name.upper(): None for name in _sections()}
    for name in sorted(environ):
        if name in by_variable:
            if environ[name]:  # an empty one is how many tools say that it is not set
                yield by_variable[name], name
        elif name.startswith(ENVIRONMENT_PREFIX) and not _SERVICE_LINK.search(name):
            section, _, rest = name.removeprefix(ENVIRONMENT_PREFIX).partition("_")
            if rest and (section in sections or _nearest(section, sections)):
                nearest = _nearest(name, by_variable)
                hint = f"did you mean {nearest}?" if nearest else "config/default.toml lists every setting"
                raise ConfigError(f"environment variable {name}: there is no such setting", hint=hint)


def check_exposure(scheduler: SchedulerSettings, security: SecuritySettings) -> None:
    """Raise ConfigError when an address is bound beyond loopback with no keys, and nobody said that this is meant.

    Keys and ``insecure`` together are refused: who says both believes one of two things that cannot both be true.
    """
    if security.keys and security.insecure:
        raise ConfigError(
            f"security.keys = {security.keys} and security.insecure = true contradict each other: with keys every "
            "connection is encrypted and only who has one is let in",
            hint="leave out --insecure (security.insecure) to use the keys, or security.keys to go without",
        )
    if security.keys or security.insecure:
        return
    for key in ("bind_workers", "bind_clients"):
        address = getattr(scheduler, key)
        if not is_local(address):
            raise ConfigError(
                f"scheduler.{key} = {address} can be reached from other machines, and whoever reaches it can run "
                "code on the workers",
                hint="`sparrowmq keys new` makes keys, security.keys names their directory; or bind to 127.0.0.1, or "
                "say --insecure (security.insecure = true) on a network that you trust",
            )


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address, ipc:///PATH or tcp://HOST:PORT."""
    if address.startswith("ipc://"):
        return True
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name, another interface, or "*"
        return False
