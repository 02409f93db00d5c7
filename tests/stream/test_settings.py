"""Where settings come from, which source wins, and that no wrong or misspelled one goes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.topics import DEFAULT_TOPICS
from stream.errors import ConfigurationError
from stream.operator.flags import parse_flags
from stream.settings import WorkerSettings, load_settings
from stream.settings_sources import MAX_FILE_BYTES, unknown_variables, variable

FILE = "kafka: {group_id: file, client_id: file, bootstrap_servers: 'file:1'}\nlimits: {deadline_s: 7}\n"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PROGUARD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def complaint(config: Path | None = None, *arguments: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(flags=parse_flags(arguments, "worker"), config=config)
    return str(refused.value).splitlines()


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGUARD_KAFKA__GROUP_ID", "variable")
    monkeypatch.setenv("PROGUARD_KAFKA__CLIENT_ID", "variable")
    settings = load_settings(flags=parse_flags(["--kafka.group-id", "flag"], "worker"), config=file)
    assert settings.kafka.group_id == "flag"
    assert settings.kafka.client_id == "variable"
    assert settings.kafka.bootstrap_servers == "file:1"
    assert settings.limits.deadline_s == 7
    assert settings.topics.topics() == DEFAULT_TOPICS


def test_the_file_is_named_by_a_variable_or_by_config_which_wins(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGUARD_CONFIG", str(file))
    assert load_settings().kafka.group_id == "file"
    other = tmp_path / "other.json"
    other.write_text('{"kafka": {"group_id": "other"}}', encoding="utf-8")
    assert load_settings(config=other).kafka.group_id == "other"
    assert load_settings(config=other).limits.deadline_s == 30


def test_mappings_come_as_json_or_entry_by_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {"media://demo": {"kind": "local", "root": "/images"}}
    monkeypatch.setenv("PROGUARD_EVIDENCE__STORES", json.dumps(stores))
    monkeypatch.setenv("PROGUARD_KAFKA__PROPERTIES__SECURITY.PROTOCOL", "ssl")
    settings = load_settings()
    assert settings.evidence.stores["media://demo"].root == Path("/images")
    assert settings.kafka.properties == {"security.protocol": "ssl"}
    flags = parse_flags(["--evidence.stores", json.dumps(stores), "--kafka.properties", "a=b"], "worker")
    assert load_settings(flags=flags).evidence.stores == settings.evidence.stores


def test_every_wrong_setting_has_a_line_with_all_its_names(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("kafka: {session_timeout_ms: 5}\nhealth: {port: -1}\n", encoding="utf-8")
    monkeypatch.setenv("PROGUARD_GUARD__TIMEOUT_S", "soon")
    lines = complaint(file, "--limits.deadline-s", "never")
    assert len(lines) == 4
    for name in ("kafka.session_timeout_ms", "health.port", "guard.timeout_s", "limits.deadline_s"):
        (line,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert f"flag --{name.replace('_', '-')}, variable PROGUARD_{name.replace('.', '__').upper()}" in line


@pytest.mark.parametrize(
    ("url", "http", "address"),
    [
        ("http://triton:8000", True, "triton:8000"),
        ("https://proxy", True, "proxy"),
        ("http://[::1]:8000/", True, "[::1]:8000"),
        ("grpc://triton:8001", False, "triton:8001"),
        ("triton:8001", False, "triton:8001"),
        ("dns:///triton-headless:8001", False, "dns:///triton-headless:8001"),
    ],
)
def test_the_address_of_the_guard_says_which_protocol_it_speaks(url: str, http: bool, address: str) -> None:
    guard = load_settings(flags=parse_flags(["--guard.url", url], "worker")).guard
    assert (guard.over_http, guard.address) == (http, address)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:8000",
        "http://triton:80000",
        "http://triton:port",
        "http://triton:8000/v2",
        "http://triton:8000?x",
        "http://user@triton:8000",
        "http://triton:8000\r\nX: y",
        "http://tri ton:8000",
        "http://tritön:8000",
    ],
)
def test_an_address_that_is_more_than_a_host_and_a_port_is_refused(url: str) -> None:
    (line,) = complaint(None, "--guard.url", url)
    assert line.startswith("guard")


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert "https" in complaint(None, "--guard.tls.enabled", "true")[0]
    assert "drain_s must be shorter" in complaint(None, "--delivery.drain-s", "299")[0]
    assert "acks" in complaint(None, "--kafka.properties", "acks=0")[0]
    assert "different names" in complaint(None, "--topics.ood", DEFAULT_TOPICS.verdicts)[0]


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("PROGUARD_KAFKA_BOOTSTRAP_SERVERS", "x", "PROGUARD_KAFKA__BOOTSTRAP_SERVERS"),
        ("PROGUARD_KAFKA__BOOTSTRAP_SERVER", "x", "PROGUARD_KAFKA__BOOTSTRAP_SERVERS"),
        ("PROGUARD_POLICY_PTH", "x", "PROGUARD_POLICY_PATH"),
        ("proguard_limits__deadline", "1", "PROGUARD_LIMITS__DEADLINE_S"),
        ("PROGUARD_GUARD", '{"urll": "x"}', "url"),
        ("PROGUARD_GUARD__TLS__ROT", "x", None),
        ("PROGUARD_NOTHING__LIKE_IT", "x", None),
    ],
)
def test_a_misspelled_variable_is_refused(
    name: str, value: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = complaint()
    assert line.upper().startswith(name.upper())
    assert "there is no such setting" in line
    if meant is not None:
        assert line.endswith(f"did you mean {meant}?")


def test_variables_of_others_are_let_be() -> None:
    others = {
        "PROGUARD_HOME": "/opt/proguard",
        "PROGUARD_CONFIG": "x",
        "PROGUARD_TRITON_ENV": "x",
        "PROGUARD_STREAM_CACHE": "x",
        # Kubernetes, for a Service called proguard-health or proguard.
        "PROGUARD_HEALTH_PORT": "tcp://10.0.0.1:8080",
        "PROGUARD_HEALTH_PORT_8080_TCP_ADDR": "10.0.0.1",
        "PROGUARD_HEALTH_SERVICE_HOST": "10.0.0.1",
        "PROGUARD_SERVICE_PORT_HTTP": "8080",
        "PATH": "/bin",
    }
    assert list(unknown_variables(others, WorkerSettings)) == []
    meant = {"PROGUARD_HEALTH_PORT": "8080"}
    assert list(unknown_variables(meant, WorkerSettings)) == [("PROGUARD_HEALTH_PORT", "PROGUARD_HEALTH__PORT")]


def test_every_setting_is_a_known_variable() -> None:
    def leaves(data: dict[str, object], at: tuple[str, ...] = ()) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in data.items():
            inner = leaves(value, (*at, name)) if isinstance(value, dict) else {}
            found |= inner or {variable((*at, name)): "x"}
        return found

    variables = leaves(WorkerSettings().model_dump(mode="json"))
    assert len(variables) > 40
    assert list(unknown_variables(variables, WorkerSettings)) == []


def test_every_unknown_name_in_the_file_is_refused(file: Path) -> None:
    file.write_text("kafka: {group: x}\nguard: {tls: {root: x}}\nkafak: {}\nevidence: {store: {}}\n", encoding="utf-8")
    lines = complaint(file)
    assert [line.partition(":")[0] for line in lines] == ["kafka.group", "guard.tls.root", "kafak", "evidence.store"]
    assert "did you mean kafka.group_id?" in lines[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"kafka: [", "is not YAML, line 1"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"1: x\n", "must hold a mapping"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"kafka: text\n", "kafka: "),
        (b"#" * (MAX_FILE_BYTES + 1), "more than"),
        (b"!!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_broken_file_is_one_clear_line(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    (line,) = complaint(file)
    assert says in line


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path / "none.yaml") in complaint(tmp_path / "none.yaml")[0]
    monkeypatch.setenv("PROGUARD_CONFIG", str(tmp_path))
    assert "is not a file" in complaint()[0]


def test_an_empty_file_is_no_fault(file: Path) -> None:
    file.write_bytes(b"")
    assert load_settings(config=file).kafka.group_id == "proguard-stream"
