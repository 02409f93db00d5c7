"""Settings of the worker: by environment, by file, by flag; every one described, validated and shown by `--help`.

Precedence: flags over environment (`PROGUARD_` prefix, `__` between levels, e.g. `PROGUARD_KAFKA__BOOTSTRAP_SERVERS`) over
the YAML or JSON file named by `PROGUARD_CONFIG` over the defaults here.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from schemas.topics import DEFAULT_TOPICS, Topics
from stream.errors import ConfigurationError
from stream.evidence.settings import EvidenceSettings
from stream.guard.settings import CacheSettings, GuardSettings
from stream.settings_sources import flag, nearest, read_config, unknown_names, unknown_variables, variable
from stream.telemetry.logs import LogFormat, LogLevel
from stream.worker.breaker import DeadLetterSettings

CONFIG_VARIABLE = "PROGUARD_CONFIG"

_OURS = frozenset(
    {
        "bootstrap.servers",
        "metadata.broker.list",
        "client.id",
        "group.id",
        "session.timeout.ms",
        "auto.offset.reset",
        "isolation.level",
        "transactional.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "partition.assignment.strategy",
        "group.protocol",
        "group.instance.id",
    }
)


class KafkaSettings(BaseModel):
    """Where Kafka is and how this worker joins its group."""

    bootstrap_servers: str = Field(
        "127.0.0.1:9092", min_length=1, description="Brokers to start from, host:port, comma-separated."
    )
    group_id: str = Field("proguard-stream", min_length=1, description="Consumer group of the workers.")
    client_id: str = Field("proguard-worker", description="Name in the brokers' logs and metrics.")
    session_timeout_ms: Annotated[int, Field(ge=6000, le=300_000)] = Field(
        45_000,
        description="Milliseconds without a heartbeat after which the group gives this worker's partitions away.",
    )
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic",
        description="classic: cooperative-sticky rebalances, on any broker; consumer: the broker-side protocol of KIP-848 (Kafka 4), "
        "where the broker sets the session timeout.",
    )
    group_instance_id: str | None = Field(
        None,
        description="Static membership: a name of this worker that survives its restart, so that a restart within the session "
        "timeout moves no partition. Different for each worker.",
    )
    properties: dict[str, str] = Field(
        {}, description="Further librdkafka properties for both clients, e.g. security.protocol, sasl.*, ssl.*."
    )

    @model_validator(mode="after")
    def _does_not_break_promises(self) -> Self:
        taken = sorted(_OURS & self.properties.keys())
        if taken:
            raise ValueError(
                f"{', '.join(taken)}: set by the worker itself, through a setting with a name of its own or because its delivery "
                "promises rest on it"
            )
        return self

    def common(self) -> dict[str, str | int | bool]:
        """librdkafka properties that every client of the service shares."""
        return {
            # While a broker restarts it may say that a partition has no leader, and librdkafka (2.16) can rest on that answer until
            # it asks again: after five minutes, by default.
            "topic.metadata.refresh.interval.ms": 30_000,
            **self.properties,
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
        }

    def consumer(self) -> dict[str, str | int | bool]:
        """Properties of the worker's consumer: it commits by hand, and only what is done."""
        member: dict[str, str | int | bool] = {"group.id": self.group_id, "group.protocol": self.group_protocol}
        if self.group_protocol == "classic":
            member["partition.assignment.strategy"] = "cooperative-sticky"
            member["session.timeout.ms"] = self.session_timeout_ms
        if self.group_instance_id is not None:
            member["group.instance.id"] = self.group_instance_id
        return {
            "queued.max.messages.kbytes": 16_384,
            # What was fetched comes out in the order of fetching. With librdkafka's 1 MiB a backlog is served a partition at a time, and when
            # each rebalance starts that anew, the last partitions hardly ever have their turn (make chaos: 20 minutes without one).
            "max.partition.fetch.bytes": 131_072,
            **self.common(),
            **member,
            "auto.offset.reset": "error",  # where to read on is the worker's to say (`lost_its_place`)
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }

    def transactional_producer(self, transactional_id: str | None, timeout_ms: int) -> dict[str, str | int | bool]:
        """Properties of the worker's producer when exactly once. Without an id, one of this process's own."""
        return {
            **self.producer(linger_ms=0),
            "transactional.id": transactional_id or f"{self.group_id}-{uuid.uuid4()}",
            "transaction.timeout.ms": timeout_ms,
            # A record that cannot be delivered in its transaction's time aborts it, and is written again in the next one.
            "delivery.timeout.ms": timeout_ms,
        }

    def producer(self, linger_ms: float) -> dict[str, str | int | bool]:
        """Properties of the worker's producer: idempotent, acknowledged by all in-sync replicas, retried for minutes."""
        return {
            "linger.ms": f"{linger_ms:g}",  # librdkafka takes fractions, as text
            "compression.type": "lz4",
            "message.max.bytes": 16_777_216,
            "delivery.timeout.ms": 300_000,
            **self.common(),
            "enable.idempotence": True,
            "acks": "all",
        }


class TopicSettings(BaseModel):
    """Names of the topics."""

    content: str = Field(DEFAULT_TOPICS.content, min_length=1, description="Content events in.")
    verdicts: str = Field(DEFAULT_TOPICS.verdicts, min_length=1, description="Verdicts out.")
    ood: str = Field(DEFAULT_TOPICS.ood, min_length=1, description="Risks that fit no category, out.")
    dead_letters: str = Field(
        DEFAULT_TOPICS.dead_letters, min_length=1, description="Events that were not judged, out."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [self.content, self.verdicts, self.ood, self.dead_letters]
        if len(set(names)) != len(names):
            raise ValueError("the four topics must have different names")
        return self

    def topics(self) -> Topics:
        return Topics(content=self.content, verdicts=self.verdicts, ood=self.ood, dead_letters=self.dead_letters)


class LimitSettings(BaseModel):
    """What one event may cost, and how many may be under way."""

    max_event_bytes: Annotated[int, Field(ge=1024, le=8_388_608)] = Field(
        262_144, description="Bytes of one record; a larger one is dead-lettered unread."
    )
    max_text_chars: Annotated[int, Field(ge=1)] = Field(
        32_768, description="Characters of both texts together; a longer event is indeterminate."
    )
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        30.0, description="Seconds for one event, outages of the guard not counted; then it is indeterminate."
    )
    max_in_flight_events: Annotated[int, Field(ge=1, le=4096)] = Field(
        512, description="Events taken from Kafka and not yet answered; reading stops there."
    )
    window: Annotated[int, Field(ge=64, le=16_000)] = Field(
        12_000,
        description="Offsets of one partition from the oldest unfinished event to the newest one read; there the partition waits. "
        "What is complete in between is remembered in the commit's metadata, which bounds it.",
    )


class DeliverySettings(BaseModel):
    """How outcomes are written."""

    mode: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="exactly_once: verdicts, OOD events, dead letters and offsets in one Kafka transaction, seen by readers with "
        "read_committed; at_least_once: written at once, and a crash may repeat a verdict under the same id.",
    )
    transaction_interval_ms: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="Milliseconds from the start of one transaction to the start of the next, when exactly once."
    )
    max_batch: Annotated[int, Field(ge=1, le=20_000)] = Field(
        2000, description="Outcomes after which a transaction, or a batch, is closed early."
    )
    transaction_timeout_ms: Annotated[int, Field(ge=1000, le=900_000)] = Field(
        15_000,
        description="Milliseconds after which the brokers abort a transaction whose worker has died; its partitions wait that long.",
    )
    transactional_id: str | None = Field(
        None,
        description="Name of this process's transactions, different for each worker; one is made if unset. With a stable name (a "
        "StatefulSet's pod) a restarted worker aborts its own old transaction at once.",
    )
    commit_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = Field(
        500, description="Milliseconds between offset commits, when at least once; how much a crash may repeat."
    )
    linger_ms: Annotated[int, Field(ge=0, le=1000)] = Field(
        2,
        description="Milliseconds between two writes, when at least once; what is ready in between is written together. An outcome that "
        "comes after a pause is written at once.",
    )
    drain_s: Annotated[float, Field(gt=0, le=300)] = Field(
        20.0, description="Seconds for events in flight to finish on shutdown or when a partition is taken away."
    )
    rationale: bool = Field(True, description="Put the guard's reasoning into verdicts. It may paraphrase content.")
    ce_source: str = Field(
        "urn:proguard-stream:worker", min_length=1, description="CloudEvents source of what is written."
    )
    dead_letters: DeadLetterSettings = DeadLetterSettings()


class HealthSettings(BaseModel):
    """The HTTP endpoints /live, /ready and /metrics."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a pod.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port; 0 for any free one.")
    stuck_after_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds without a poll or a turn of the event loop after which /live fails."
    )


class TelemetrySettings(BaseModel):
    """Logs and traces."""

    log_level: LogLevel = Field("info", description="Least severe level that is logged.")
    log_format: LogFormat = Field("json", description="json for machines, console for people.")
    otlp_endpoint: str | None = Field(
        None, description="OTLP/gRPC collector for traces, e.g. http://collector:4317; none if unset."
    )


class WorkerSettings(BaseSettings):
    """Settings of `proguard-stream worker`."""

    model_config = SettingsConfigDict(
        env_prefix="PROGUARD_",
        env_nested_delimiter="__",
        extra="forbid",
        nested_model_default_partial_update=True,
        cli_kebab_case=True,
        cli_prog_name="proguard-stream worker",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        use_attribute_docstrings=False,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    guard: GuardSettings = GuardSettings()
    cache: CacheSettings = CacheSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    limits: LimitSettings = LimitSettings()
    delivery: DeliverySettings = DeliverySettings()
    health: HealthSettings = HealthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    policy_path: Path | None = Field(
        None, description="Policy file, or folder of default.json and one file a tenant; the packaged policy if unset."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delivery.drain_s * 1000 >= self.kafka.session_timeout_ms:
            raise ValueError(
                "delivery.drain_s must be shorter than kafka.session_timeout_ms: a worker that drains for longer is expelled from "
                "its group while it drains"
            )
        if self.delivery.transaction_timeout_ms > self.kafka.session_timeout_ms:
            raise ValueError(
                "delivery.transaction_timeout_ms must not be longer than kafka.session_timeout_ms: the partitions of a dead worker "
                "would wait for its transaction after they have found a new owner"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=cls._file()))

    @classmethod
    def _file(cls) -> dict[str, Any]:
        path = os.environ.get(CONFIG_VARIABLE)
        return read_config(Path(path)) if path else {}


def load_settings(
    *, flags: CliSettingsSource[Any] | None = None, config: Path | None = None, **overrides: object
) -> WorkerSettings:
    """The settings in force: `flags` and `overrides` over the environment over the file over the defaults.

    `config` takes the place of the file that `PROGUARD_CONFIG` names. Raises `ConfigurationError` with one line for every
    setting that is wrong and every name that is none.
    """
    path = config or (Path(named) if (named := os.environ.get(CONFIG_VARIABLE)) else None)
    document = read_config(path) if path else {}

    class Loaded(WorkerSettings):
        @classmethod
        def _file(cls) -> dict[str, Any]:
            return document

    unknown = list(unknown_names(document, WorkerSettings))
    lines = [_unknown_name(name) for name in unknown]
    lines += [_unknown_variable(name, near) for name, near in unknown_variables(os.environ, WorkerSettings)]
    try:
        settings = Loaded(_cli_settings_source=flags, **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines += _faults(error, frozenset(unknown))
    except SettingsError as error:
        lines.append(f"{error}: {error.__cause__}" if error.__cause__ else str(error))
    if lines:
        raise ConfigurationError("\n".join(lines)) from None
    return settings


def _faults(error: ValidationError, told: frozenset[tuple[str, ...]]) -> list[str]:
    """One line a wrong setting, with every name under which an operator would set it."""
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        path = tuple(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            if path not in told:
                lines.append(_unknown_name(path))
        elif path:
            lines.append(f"{'.'.join(path)}: {message} ({_names(path)})")
        else:
            lines.append(message)
    return lines


def _names(path: tuple[str, ...]) -> str:
    # Inside a mapping (a store, a librdkafka property) the names are the operator's own: only the mapping has a flag.
    setting = path[:2] if path[:2] in {("evidence", "stores"), ("kafka", "properties")} else path
    return f"flag {flag(setting)}, variable {variable(setting)}"


def _unknown_name(path: tuple[str, ...]) -> str:
    near = nearest(path, WorkerSettings)
    return f"{'.'.join(path)}: there is no such setting" + (f"; did you mean {near}?" if near else "")


def _unknown_variable(name: str, near: str | None) -> str:
    return f"{name}: there is no such setting" + (f"; did you mean {near}?" if near else "")
