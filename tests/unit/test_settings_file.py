from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.pipeline.config import Settings
from headrace.pipeline.config_routes import Ordering
from headrace.pipeline.errors import ConfigError
from headrace.pipeline.settings_file import environment_variables, load_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, so that messages name the file as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILE = Path("pipeline.yaml")


def load(text: str, environ: Mapping[str, str] | None = None) -> Settings:
    FILE.write_text(text)
    return load_settings(FILE, environ or {})


def refusal(text: str | bytes) -> str:
    FILE.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_settings(FILE, {})
    assert caught.value.exit_code == 2
    return str(caught.value)


NO_SUCH_VALUES = {
    "0x_": "a whole number",
    "-0b_": "a whole number",
    "!!int abc": "a whole number",
    "!!int ''": "a whole number",
    "9" * 5000: "a whole number",
    "0x" + "9" * 5000: "a whole number",
    ":".join(["59"] * 3000): "a whole number",
    ":".join(["59"] * 3000) + ".5": "a number",
    "!!float abc": "a number",
    "!!bool abc": "true or false",
    "!!timestamp abc": "a date",
    "!!timestamp 2024-13-45": "a date",
}
"""What YAML takes for a value of a kind, going by its tag or its first characters, and is none."""

BROKEN = {
    "below its range": (
        "routes:\n- {name: a, model: m, batch: {max_records: 0}}",
        "routes[0].batch.max_records: 0 is less than 1 (allowed: 1 to 4096)",
    ),
    "above its range": (
        "worker: {http_port: 70000}",
        "worker.http_port: 70000 is more than 65535 (allowed: 0 to 65535)",
    ),
    "not above its bound": (
        "triton: {timeout_seconds: 0}",
        "triton.timeout_seconds: 0 is not more than 0 (allowed: more than 0, up to 3600)",
    ),
    "open range": (
        "worker: {max_in_flight_records: 0}",
        "worker.max_in_flight_records: 0 is less than 1 (allowed: 1 or more)",
    ),
    "not a number at all": (
        "triton: {timeout_seconds: .nan}",
        "triton.timeout_seconds: nan is more than 3600 (allowed: more than 0, up to 3600)",
    ),
    "misspelt key": (
        "registry: {ulr: x}",
        "registry.ulr: unknown key; did you mean url? (allowed: url, timeout_seconds, client)",
    ),
    "unknown section": (
        "zookeeper: {}",
        "zookeeper: unknown key (allowed: name, kafka, registry, triton, topics, routes, user_code, worker)",
    ),
    "unknown choice": (
        "routes:\n- {name: a, model: m, ordering: keys}",
        "routes[0].ordering: 'keys' is not known; did you mean key? (allowed: partition, key, none)",
    ),
    "choice in the wrong case": (
        "routes:\n- {name: a, model: m, match: {modality: [text]}}",
        "routes[0].match.modality[0]: 'text' is not known; did you mean TEXT? "
        "(allowed: TEXT, IMAGE, AUDIO, VIDEO, TENSOR)",
    ),
    "unknown level": (
        "worker: {log_level: loud}",
        "worker.log_level: 'loud' is not known (allowed: debug, info, warning, error)",
    ),
    "text for a number": ("worker: {slot: '3'}", "worker.slot: '3' is not a whole number (allowed: 0 to 9999)"),
    "fraction": ("worker: {slot: 1.5}", "worker.slot: 1.5 is not a whole number (allowed: 0 to 9999)"),
    "truth for a number": ("worker: {slot: yes}", "worker.slot: true is not a whole number (allowed: 0 to 9999)"),
    "number for text": (
        "routes:\n- {name: a, model: m, version: 2}",
        "routes[0].version: 2 is not text (put it in quotes)",
    ),
    "text for truth": (
        "routes:\n- {name: a, model: m, match: {explicit: maybe}}",
        "routes[0].match.explicit: 'maybe' is not true or false",
    ),
    "text for a list": ("topics: {requests: events}", "topics.requests: 'events' is not a list"),
    "list for a section": ("kafka: [a]", "kafka: a list is not a mapping (name: value)"),
    "list for text": ("name: [a]", "name: a list is not text (put it in quotes)"),
    "mapping as a client property": (
        "kafka: {client: {debug: {}}}",
        "kafka.client[debug]: a mapping is not text, a number, true or false",
    ),
    "empty section": ("worker:", "worker: is empty: give it a value or leave it out"),
    "no routes": ("routes: []", "routes: needs 1 or more entries, has 0"),
    "missing": ("routes:\n- {name: a}", "routes[0].model: is missing: it has no default"),
    "bad name": (
        "routes:\n- {name: 'a b', model: m}",
        "routes[0].name: 'a b' is not allowed (allowed: 1 to 100 letters, digits, '.', '_' or '-', "
        "the first a letter or digit)",
    ),
    "bad topic": (
        "topics: {requests: [ok, 'not ok']}",
        "topics.requests[1]: 'not ok' is not allowed (allowed: 1 to 249 letters, digits, '.', '_' or '-')",
    ),
    "bad version": (
        "routes:\n- {name: a, model: m, version: latest}",
        "routes[0].version: 'latest' is not allowed (allowed: a whole number of at most 18 digits, or empty)",
    ),
    "long version": (
        "routes:\n- {name: a, model: m, version: '11111111111111111111111'}",
        "routes[0].version: '11111111111111111111111' is not allowed "
        "(allowed: a whole number of at most 18 digits, or empty)",
    ),
    "topic of dots": ("topics: {results: ..}", "topics.results: '..' is not allowed: Kafka has no topic of that name"),
    "topic of a dot among others": (
        "routes:\n- {name: a, model: m, reply_topics_allowed: [ok, .]}",
        "routes[0].reply_topics_allowed[1]: '.' is not allowed: Kafka has no topic of that name",
    ),
    "no servers": (
        "kafka: {bootstrap_servers: ''}",
        "kafka.bootstrap_servers: '' is not allowed (allowed: host:port, comma-separated)",
    ),
    "empty server": (
        "kafka: {bootstrap_servers: 'a:1,,b:2'}",
        "kafka.bootstrap_servers: 'a:1,,b:2' is not allowed (allowed: host:port, comma-separated)",
    ),
    "no registry": (
        "registry: {url: ''}",
        "registry.url: '' is not allowed (allowed: http:// or https:// and a host)",
    ),
    "registry without a scheme": (
        "registry: {url: 'localhost:8081'}",
        "registry.url: 'localhost:8081' is not allowed (allowed: http:// or https:// and a host)",
    ),
    "no triton": (
        "triton: {url: ''}",
        "triton.url: '' is not allowed (allowed: host:port without http://, dns:///host:port or unix:path)",
    ),
    "triton with a scheme": (
        "triton: {url: 'http://localhost:8001'}",
        "triton.url: 'http://localhost:8001' is not allowed "
        "(allowed: host:port without http://, dns:///host:port or unix:path)",
    ),
    "dead letters among results": (
        "topics: {results: inference.dead-letters}",
        "topics: inference.dead-letters is both for dead letters and for results: their schemas differ",
    ),
    "dead letters as a reply": (
        "routes:\n- {name: a, model: m, reply_topic: inference.dead-letters}",
        "topics: inference.dead-letters is both for dead letters and for results: their schemas differ",
    ),
    "dead letters as an allowed reply": (
        "routes:\n- {name: a, model: m, reply_topics_allowed: [x, inference.dead-letters]}",
        "topics: inference.dead-letters is both for dead letters and for results: their schemas differ",
    ),
    "route twice": (
        "routes:\n- {name: a, model: m}\n- {name: a, model: n}",
        "routes: each name once, but a stands more than once",
    ),
    "loop": (
        "topics: {results: inference.requests}",
        "topics: inference.requests is both a request topic and an output, which would loop",
    ),
    "shrinking backoff": (
        "routes:\n- {name: a, model: m, retries: {initial_backoff_seconds: 9}}",
        "routes[0].retries: max_backoff_seconds must not be less than initial_backoff_seconds",
    ),
    "key twice": ("kafka: {}\nname: a\nkafka: {}", "line 3, column 1: key 'kafka' stands twice, first in line 1"),
    "no mapping": ("- a", "must be a mapping of settings (name: value), not a list"),
    "plain text": ("hello", "must be a mapping of settings (name: value), not text"),
    "tab": ("kafka:\n\tclient: {}", "line 2, column 1: a tab where YAML wants spaces"),
    "bad YAML": ("kafka: [", "line 1, column 9: expected the node content, but found '<stream end>'"),
    "bad indentation": ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
    "two documents": ("name: a\n---\nname: b", "line 2, column 1: but found another document"),
    "unknown alias": ("kafka: *base", "line 1, column 8: found undefined alias 'base'"),
    "alias of itself": ("kafka: &a [*a]", "has an alias that refers to itself"),
    "Python object": (
        "name: !!python/object:os.system x",
        "line 1, column 7: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
    ),
    "date where none can be": (
        "? !!timestamp 2024-01-01\n: 1",
        "holds a value of a kind that no setting has (tagged as a date or binary, say)",
    ),
    **{
        f"{value[:20]} {value[-3:]}": (
            f"worker:\n  slot: {value}",
            f"line 2, column 9: this cannot be read as {wanted}: put text in quotes",
        )
        for value, wanted in NO_SUCH_VALUES.items()
    },
    "control character": ("name: \x07", "character 0x7 at position 6 is not allowed in YAML"),
    "not UTF-8": (b"name: \xff", "is not UTF-8 text: byte 6 is 0xff"),
}


@pytest.mark.parametrize(("text", "line"), BROKEN.values(), ids=BROKEN)
@pytest.mark.usefixtures("folder")
def test_broken_file_gets_one_clear_line(text: str | bytes, line: str) -> None:
    assert refusal(text) == f"pipeline.yaml: {line}"


@pytest.mark.usefixtures("folder")
def test_each_problem_has_its_line() -> None:
    problems = refusal("name: 5\nkafka: {producers: 9}\nroutes:\n- {name: a, model: m, extra: 1}").splitlines()
    assert [line.split(": ")[1] for line in problems] == ["name", "kafka.producers", "routes[0].extra"]


@pytest.mark.usefixtures("folder")
def test_long_values_are_cut() -> None:
    assert len(refusal(f"worker: {{slot: {'x' * 10_000}}}")) < 150


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("kafka: {bootstrap_servers: '%s'}", ["a:1", "a:1,b:2", "a:1, b:2", "SSL://a.example:9093", "[::1]:9092", "a"]),
        ("registry: {url: '%s'}", ["http://a", "https://a.example:8081/apis/ccompat/v7", "http://[::1]:80/"]),
        ("triton: {url: '%s'}", ["a:1", "127.0.0.1:65535", "[::1]:8001"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_addresses_of_every_form_are_taken(section: str, values: list[str]) -> None:
    for value in values:
        assert value in load(section % value).model_dump_json()


@pytest.mark.parametrize("name", ["absent.yaml", "."])
@pytest.mark.usefixtures("folder")
def test_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^{name.replace('.', '[.]')}: cannot be read: (No such file|Is a directory)"
    ):
        load_settings(Path(name), {})


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "\ufeff", "---\n..."])
@pytest.mark.usefixtures("folder")
def test_empty_file_means_defaults(text: str) -> None:
    assert load(text) == Settings() == load_settings(None, {})


@pytest.mark.usefixtures("folder")
def test_file_is_read() -> None:
    settings = load(
        """
        kafka: {client: {debug: true, x: 1, y: a}}
        topics: {requests: [a, b]}
        routes:
        - {name: one, model: m, ordering: none, batch: &batch {max_records: 8, max_delay_seconds: 1e-3}}
        - {name: two, model: m, batch: {<<: *batch, max_records: 4}}
        """
    )
    assert settings.kafka.client == {"debug": True, "x": 1, "y": "a"}
    assert settings.topics.requests == ("a", "b")
    assert settings.routes[0].ordering is Ordering.NONE
    assert [(r.batch.max_records, r.batch.max_delay_seconds) for r in settings.routes] == [(8, 0.001), (4, 0.001)]


@pytest.mark.usefixtures("folder")
def test_environment_goes_before_file_before_stack_before_defaults() -> None:
    FILE.write_text("kafka: {bootstrap_servers: file:1}\nregistry: {url: http://file}")
    stack = {
        "kafka": {"bootstrap_servers": "stack:1"},
        "registry": {"url": "http://stack"},
        "triton": {"url": "stack:3"},
    }
    settings = load_settings(FILE, {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "environment:1"}, stack)
    assert settings.kafka.bootstrap_servers == "environment:1"
    assert settings.registry.url == "http://file"
    assert settings.triton.url == "stack:3"
    assert settings.worker == Settings().worker


def test_environment_values_are_read_by_kind() -> None:
    settings = load_settings(
        None,
        {
            "HEADRACE_NAME": "123",
            "HEADRACE_WORKER__SLOT": "3",
            "HEADRACE_WORKER__DRAIN_TIMEOUT_SECONDS": "2",
            "HEADRACE_TOPICS__REQUESTS": "a, b",
            "HEADRACE_TOPICS__RESULTS": "2024-01-01",
            "HEADRACE_KAFKA__CLIENT": "{security.protocol: SSL, ssl.port: 1}",
        },
    )
    assert settings.name == "123"
    assert (settings.worker.slot, settings.worker.drain_timeout_seconds) == (3, 2.0)
    assert (settings.topics.requests, settings.topics.results) == (("a", "b"), "2024-01-01")
    assert settings.kafka.client == {"security.protocol": "SSL", "ssl.port": 1}


def test_other_variables_are_no_settings() -> None:
    others = ("HEADRACE_HOME", "HEADRACE_CACHE", "HEADRACE_CONFIG", "HEADRACE_STACK", "KAFKA__CLIENT", "PATH")
    assert load_settings(None, dict.fromkeys(others, "x")) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("HEADRACE_WORKER__SLOT", "x", "'x' is not a whole number (allowed: 0 to 9999)"),
        ("HEADRACE_WORKER__SLOT", "", "is empty: give it a value or leave it out (allowed: 0 to 9999)"),
        ("HEADRACE_WORKER__SLOTS", "1", "unknown setting; did you mean HEADRACE_WORKER__SLOT?"),
        ("HEADRACE_worker__slot", "1", "unknown setting; did you mean HEADRACE_WORKER__SLOT?"),
        ("HEADRACE_X__Y", "1", "unknown setting; 'headrace config reference' lists all"),
        ("HEADRACE_ROUTES__NAME", "1", "unknown setting; routes stand in the file alone"),
        ("HEADRACE_KAFKA__CLIENT", "{a: [}", "line 1, column 6: expected the node content, but found '}'"),
        (
            "HEADRACE_TOPICS__RESULTS",
            "a b",
            "'a b' is not allowed (allowed: 1 to 249 letters, digits, '.', '_' or '-')",
        ),
        ("HEADRACE_KAFKA__CLIENT", "{a: []}", "a list is not text, a number, true or false"),
        (
            "HEADRACE_TRITON__URL",
            "",
            "'' is not allowed (allowed: host:port without http://, dns:///host:port or unix:path)",
        ),
        *(
            (
                "HEADRACE_WORKER__SLOT",
                value,
                f"line 1, column 1: this cannot be read as {wanted}: put text in quotes",
            )
            for value, wanted in NO_SUCH_VALUES.items()
        ),
    ],
)
def test_wrong_variable_is_named(variable: str, value: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {variable: value})
    assert str(caught.value) == f"{variable}: {line}"


@pytest.mark.usefixtures("folder")
def test_variable_does_not_hide_a_section_that_is_wrong() -> None:
    FILE.write_text("worker: 5")
    with pytest.raises(ConfigError, match=r"^pipeline\.yaml: worker: 5 is not a mapping"):
        load_settings(FILE, {"HEADRACE_WORKER__SLOT": "1"})


def test_every_scalar_setting_outside_routes_has_a_variable() -> None:
    locations = set(environment_variables().values())
    dumped = Settings().model_dump(exclude={"routes"})
    expected = {
        (section, field) for section, fields in dumped.items() if isinstance(fields, dict) for field in fields
    } | {("name",)}
    assert locations == expected
