"""`doctor` in front of real parts that are well, wrong, or not there."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from schemas.policy import default_policy
from stream.devkit.kafka import KafkaBroker
from stream.devkit.s3 import S3Server
from stream.devkit.triton import TritonServer
from stream.evidence.settings import EvidenceSettings
from stream.operator.checks.evidence import evidence_checks
from stream.operator.checks.guard import INPUTS, OUTPUTS, signature_faults
from stream.operator.checks.local import port_check
from stream.operator.checks.result import State
from stream.operator.doctor import examine
from stream.settings import HealthSettings, load_settings
from stream.worker.health import HealthServer
from tests.stream.operator.parts import NOBODY, document, produce, run, topic_variables, wait_for_topics
from tests.support.services import fresh_topics

ROLES = ("content", "verdicts", "ood", "dead_letters")
Checks = dict[str, dict[str, str]]


@pytest.fixture
def topics(kafka_broker: KafkaBroker) -> dict[str, str]:
    names = fresh_topics(kafka_broker, *ROLES)
    wait_for_topics(kafka_broker.bootstrap, names.values())
    return names


@pytest.fixture
def environment(kafka_broker: KafkaBroker, topics: dict[str, str]) -> dict[str, str]:
    """An installation whose Kafka is well and whose guard is nowhere."""
    return {
        **topic_variables(topics, kafka_broker.bootstrap),
        "PROGUARD_KAFKA__GROUP_ID": topics["content"],
        "PROGUARD_GUARD__URL": NOBODY,
        "PROGUARD_HEALTH__PORT": "0",
    }


def doctor(environment: dict[str, str], *arguments: str | Path) -> tuple[int, Checks]:
    result = run("doctor", "--json", *arguments, environment=environment)
    told = document(result)
    assert told["ok"] == (result.exit_code == 0)
    return result.exit_code, {check["name"]: check for check in told["checks"]}


def commit(bootstrap: str, topic: str) -> None:
    """The beginning of partition 0 for the group that is called like its topic; a new broker then has a coordinator."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    finally:
        consumer.close()


def states(checks: Checks) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items()}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_installation_that_is_well_passes(
    kafka_broker: KafkaBroker, scripted_guard: TritonServer, tmp_path: Path, protocol: str
) -> None:
    names = {role: f"{role}.{uuid.uuid4().hex[:8]}" for role in ROLES}
    environment = topic_variables(names, kafka_broker.bootstrap) | {
        "PROGUARD_KAFKA__GROUP_ID": names["content"],
        "PROGUARD_HEALTH__PORT": "0",
    }
    assert run("topics", "create", "--partitions", "4", environment=environment).exit_code == 0
    commit(kafka_broker.bootstrap, names["content"])
    stores = {"media://demo": {"kind": "local", "root": str(tmp_path)}}
    variables = {
        **environment,
        "PROGUARD_GUARD__URL": scripted_guard.http_url if protocol == "http" else scripted_guard.grpc_url,
        "PROGUARD_GUARD__MODEL": "scripted_guard",
        "PROGUARD_EVIDENCE__STORES": json.dumps(stores),
    }
    status, checks = doctor(variables)
    assert set(states(checks).values()) == {"ok"}, checks
    assert status == 0
    assert len(checks) == 15
    assert checks["policy"]["detail"].endswith(default_policy().digest)
    assert (
        "4 partitions, replication 1, cleanup.policy=delete"
        in checks[f"topic {environment['PROGUARD_TOPICS__OOD']}"]["detail"]
    )


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_guard_that_is_not_there_or_not_ready_fails_and_the_rest_is_checked(
    environment: dict[str, str], scripted_guard: TritonServer, protocol: str
) -> None:
    url = scripted_guard.http_url if protocol == "http" else scripted_guard.grpc_url
    environment = environment | {"PROGUARD_GUARD__URL": f"{protocol}://{NOBODY}"}
    status, checks = doctor(environment)
    assert status == 1
    assert NOBODY in checks["triton"]["detail"]
    assert "PROGUARD_GUARD__URL" in checks["triton"]["fix"]
    assert states(checks)["kafka"] == "ok"
    _, checks = doctor(environment, "--guard.url", url, "--guard.model", "nobody")
    assert [states(checks)[name] for name in ("triton", "model nobody", "tensors", "inference")] == [
        "ok",
        *["fail"] * 3,
    ]
    flags = ("--guard.url", url, "--guard.model", "scripted_guard", "--guard.timeout-s", "0.0001")
    _, checks = doctor(environment, *flags)
    assert states(checks)["tensors"] == "ok"
    assert "no answer within the timeout" in checks["inference"]["detail"]
    flags = ("--guard.url", url, "--guard.model", "scripted_guard", "--guard.canary.share", "0.1")
    _, checks = doctor(environment, *flags, "--guard.canary.model", "nobody")
    assert (states(checks)["inference"], states(checks)["canary model nobody"]) == ("ok", "fail")


def test_without_kafka_and_triton_the_rest_is_checked_and_the_answer_takes_under_six_seconds(tmp_path: Path) -> None:
    (tmp_path / "default.json").write_text("{}", encoding="utf-8")
    nowhere = {"kafka": {"bootstrap_servers": NOBODY}, "guard": {"url": NOBODY}, "health": {"port": 0}}
    settings = load_settings(**nowhere, policy_path=tmp_path)
    began = time.monotonic()
    checks = {check.name: check for check in examine(settings)}
    assert time.monotonic() - began < 6
    assert "refused" in checks["kafka"].detail
    assert checks["kafka"].state is checks["triton"].state is checks["policy"].state is State.FAIL
    assert checks["topic content.events"].detail == "not checked: Kafka does not answer"
    assert "version" in checks["policy"].detail
    assert checks["health port"].state is State.OK


def test_wrong_settings_are_named_one_by_one() -> None:
    result = run("doctor", "--json", environment={"PROGUARD_LIMITS__DEADLINE_S": "x", "PROGUARD_GUARD__URLL": "y"})
    details = [check["detail"] for check in document(result)["checks"]]
    assert result.exit_code == 1
    assert len(details) == 2
    assert details[0].startswith("PROGUARD_GUARD__URLL")
    assert details[1].startswith("limits.deadline_s")


def test_topics_that_are_missing_or_lose_records_fail_with_what_to_do(
    kafka_broker: KafkaBroker, topics: dict[str, str], environment: dict[str, str]
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    compacted, small = f"compacted.{topics['ood']}", f"small.{topics['dead_letters']}"
    made = [
        NewTopic(compacted, num_partitions=1, replication_factor=1, config={"cleanup.policy": "compact"}),
        NewTopic(small, num_partitions=1, replication_factor=1, config={"max.message.bytes": "300000"}),
    ]
    for answer in admin.create_topics(made, operation_timeout=20).values():
        answer.result(20)
    wait_for_topics(kafka_broker.bootstrap, [compacted, small])
    wrong = {"VERDICTS": "no.such.topic", "OOD": compacted, "DEAD_LETTERS": small}
    variables = {**environment, **{f"PROGUARD_TOPICS__{role}": name for role, name in wrong.items()}}
    status, checks = doctor(variables)
    assert status == 1
    assert checks["topic no.such.topic"]["fix"] == "proguard-stream topics create"
    assert "removes records that share a key" in checks[f"topic {compacted}"]["detail"]
    assert checks["dead letter size"]["state"] == "fail"
    assert "max.message.bytes=524288 or more" in checks["dead letter size"]["fix"]


def test_a_record_whose_dead_letter_would_not_fit_is_foreseen(
    environment: dict[str, str], topics: dict[str, str], kafka_broker: KafkaBroker
) -> None:
    # These topics have the broker's own limit, 24 MiB: a record of that size cannot be put aside.
    status, checks = doctor(environment)
    assert checks["dead letter size"]["state"] == "fail", status
    assert "whose dead letters" in checks["dead letter size"]["detail"]


def test_events_that_wait_while_nobody_works_are_told(
    kafka_broker: KafkaBroker, topics: dict[str, str], environment: dict[str, str]
) -> None:
    produce(kafka_broker.bootstrap, topics["content"], [b"x"] * 7)
    commit(kafka_broker.bootstrap, topics["content"])
    _, checks = doctor(environment)
    group = checks[f"group {topics['content']}"]
    assert group["detail"] == "no worker is in it; 7 events wait"
    assert group["state"] == "warn"


@pytest.fixture
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "doctor")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "doctor")


@pytest.mark.usefixtures("_credentials")
def test_every_store_is_asked(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.create_bucket("doctor")
    s3 = {"kind": "s3", "endpoint": s3_server.endpoint, "region": "us-east-1", "allow_http": True}
    stores = {
        "s3://doctor": s3,
        "s3://no-such-bucket": s3,
        "s3://nobody": {**s3, "endpoint": f"http://{NOBODY}"},
        "media://here": {"kind": "local", "root": str(tmp_path)},
        "media://gone": {"kind": "local", "root": str(tmp_path / "gone")},
    }
    settings = EvidenceSettings.model_validate({"stores": stores})
    found = {check.name.removeprefix("evidence "): check for check in evidence_checks(settings)}
    assert {name: check.state.value for name, check in found.items()} == {
        "s3://doctor": "ok",
        "s3://no-such-bucket": "fail",
        "s3://nobody": "fail",
        "media://here": "ok",
        "media://gone": "fail",
    }
    assert found["s3://no-such-bucket"].detail == "there is no such bucket"
    assert [check.state for check in evidence_checks(EvidenceSettings())] == [State.WARN]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_port_that_somebody_else_has_fails(taken: int) -> None:
    check = port_check(HealthSettings(port=taken))
    assert check.state is State.FAIL
    assert "PROGUARD_HEALTH__PORT" in check.fix


def test_a_worker_that_runs_here_is_no_failure() -> None:
    server = HealthServer("127.0.0.1", 0, live=lambda: {"polls": True}, ready=lambda: {}, registry=CollectorRegistry())
    server.start()
    try:
        check = port_check(HealthSettings(port=server.port))
    finally:
        server.stop()
    assert check.state is State.WARN
    assert "a worker is running" in check.detail


def test_a_model_that_breaks_the_contract_is_described() -> None:
    tensors = [SimpleNamespace(name=name, datatype=kind, shape=list(shape)) for name, (kind, shape) in INPUTS.items()]
    assert signature_faults("input", tensors, INPUTS) == []
    tensors[0].datatype = "INT32"
    tensors.append(SimpleNamespace(name="TEMPERATURE", datatype="FP32", shape=[1]))
    assert signature_faults("input", tensors, INPUTS) == [
        "input SYSTEM is INT32 [1] instead of BYTES [1]",
        "input TEMPERATURE is unknown",
    ]
    assert signature_faults("output", [], OUTPUTS) == [f"output {name} is missing" for name in OUTPUTS]


def test_what_a_person_sees_has_a_line_a_check_and_the_fix_below(environment: dict[str, str]) -> None:
    result = run("doctor", environment=environment)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ok   settings")
    (at,) = [number for number, line in enumerate(lines) if line.startswith("fail triton")]
    assert lines[at + 1].strip().startswith("→ start Triton")
    assert lines[-1].endswith("5 failed")
