"""`topics create` on a real broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from stream.devkit.kafka import KafkaBroker
from stream.operator.topic_plan import FoundTopic, dead_letter_bytes, differences, wanted_topics
from stream.settings import WorkerSettings
from tests.stream.operator.parts import NOBODY, document, run, topic_variables

ROLES = ("content", "verdicts", "ood", "dead_letters")


@pytest.fixture
def names() -> dict[str, str]:
    """Names of topics that do not exist yet."""
    suffix = uuid.uuid4().hex[:8]
    return {role: f"{role}.{suffix}" for role in ROLES}


@pytest.fixture
def environment(kafka_broker: KafkaBroker, names: dict[str, str]) -> Iterator[dict[str, str]]:
    yield topic_variables(names, kafka_broker.bootstrap)
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    for deleted in admin.delete_topics(list(names.values()), operation_timeout=20).values():
        deleted.exception(20)


def states(environment: dict[str, str], *arguments: str) -> dict[str, str]:
    result = run("topics", "create", "--json", *arguments, environment=environment)
    assert result.exit_code == 0, result.stderr
    return {topic["role"]: topic["state"] for topic in document(result)["topics"]}


def test_a_dry_run_creates_nothing(environment: dict[str, str]) -> None:
    assert states(environment, "--dry-run") == dict.fromkeys(ROLES, "would create")
    assert states(environment, "--dry-run") == dict.fromkeys(ROLES, "would create")


def test_creating_twice_is_the_same_as_once(
    kafka_broker: KafkaBroker, names: dict[str, str], environment: dict[str, str]
) -> None:
    assert states(environment, "--partitions", "3") == dict.fromkeys(ROLES, "created")
    assert states(environment, "--partitions", "3") == dict.fromkeys(ROLES, "exists")
    assert states(environment) == dict.fromkeys(ROLES, "exists")
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    # Without waiting: the command has.
    topics = admin.list_topics(timeout=10).topics
    assert {len(topics[name].partitions) for name in names.values()} == {3}
    resource = ConfigResource(ResourceType.TOPIC, names["dead_letters"])
    config = admin.describe_configs([resource])[resource].result(10)
    limit = WorkerSettings().limits.max_event_bytes
    assert config["cleanup.policy"].value == "delete"
    assert int(config["max.message.bytes"].value) >= 2 * limit


def test_an_existing_topic_is_told_apart_and_left_alone(
    kafka_broker: KafkaBroker, names: dict[str, str], environment: dict[str, str]
) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    config = {"cleanup.policy": "compact", "max.message.bytes": "5000"}
    mine = NewTopic(names["dead_letters"], num_partitions=1, replication_factor=1, config=config)
    for made in admin.create_topics([mine], operation_timeout=20).values():
        made.result(20)
    result = run("topics", "create", "--partitions", "2", "--json", environment=environment)
    found = {topic["role"]: topic for topic in document(result)["topics"]}
    assert found["dead_letters"]["state"] == "differs"
    details = "; ".join(found["dead_letters"]["details"])
    assert "1 partitions instead of 2" in details
    assert "cleanup.policy compact instead of delete" in details
    assert "max.message.bytes 5000" in details
    assert {topic["state"] for role, topic in found.items() if role != "dead_letters"} == {"created"}
    table = run("topics", "create", environment=environment)
    assert "differs" in table.stdout
    assert "left as they are" in table.stderr


def test_a_layout_that_the_cluster_cannot_give_fails_clearly(environment: dict[str, str]) -> None:
    result = run("topics", "create", "--replication-factor", "3", "--json", environment=environment)
    assert result.exit_code == 1
    assert {topic["state"] for topic in document(result)["topics"]} == {"failed"}
    assert "eplication factor" in document(result)["topics"][0]["details"][0]


def test_a_broker_that_is_not_there_is_one_clear_line() -> None:
    result = run("topics", "create", "--bootstrap-servers", NOBODY, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert NOBODY in result.stderr
    assert "refused" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_dead_letter_of_the_largest_record_fits_its_topic() -> None:
    for limit in (1024, 262_144, 8_388_608):
        plan = {
            topic.role: topic
            for topic in wanted_topics(WorkerSettings.model_validate({"limits": {"max_event_bytes": limit}}), 1, -1)
        }
        content, letters = (int(plan[role].config["max.message.bytes"]) for role in ("content", "dead_letters"))
        assert content >= limit
        assert letters >= dead_letter_bytes(content)
        assert dead_letter_bytes(content) <= 16_777_216, "the worker's producer takes no more"


def test_a_roomier_topic_is_no_difference() -> None:
    (content, *_) = wanted_topics(WorkerSettings(), 4, 3)
    config = {"cleanup.policy": "delete", "max.message.bytes": "99999999"}
    assert differences(content, FoundTopic("content.events", 9, 3, config), with_partitions=False) == []
    found = FoundTopic("content.events", 9, 1, config)
    assert differences(content, found, with_partitions=True) == [
        "9 partitions instead of 4",
        "replication factor 1 instead of 3",
    ]
