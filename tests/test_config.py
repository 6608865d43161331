"""Settings: precedence, sources, refusals, and that every one of them is explained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crdtmem.config import RESERVED_VARIABLES, explain, load_settings
from crdtmem.errors import ConfigError
from crdtmem.limits import DEFAULT_LIMITS, FRAME_OVERHEAD_BYTES, Limits
from crdtmem.settings import DESCRIPTIONS, Settings, look_up, parse_address, parse_size


def load(
    toml: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    return load_settings(toml, environment or {}, flags or {})


def refusal(
    toml: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(toml, environment, flags)
    assert caught.value.hint, "an error without a hint leaves its reader alone"
    return caught.value


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "crdtmem.toml"
    path.write_text(
        'region = "from-file"\ncluster = "from-file"\nnode_name = "from-file"\n'
        'peers = ["one:7420", "two:7420"]\n[limits]\nsiblings = 8\nkey_bytes = "2 KiB"\n[clock]\n'
    )
    return path


# ------------------------------------------------------------------ sources


def test_defaults_are_the_designs() -> None:
    settings = load()
    assert settings == Settings()
    assert (
        settings.limits
        == DEFAULT_LIMITS
        == Limits(
            key_bytes=1024,
            value_bytes=1024**2,
            batch_deltas=10_000,
            batch_bytes=4 * 1024**2,
            siblings=64,
            early_batches_per_peer=10_000,
            members=1_000,
            frame_bytes=8 * 1024**2,
        )
    )
    assert settings.clock.skew_alarm_ms == 500
    assert settings.group_commit.linger_ms == 0


def test_flags_beat_the_environment_which_beats_the_file(toml: Path) -> None:
    environment = {"CRDTMEM_CLUSTER": "from-env", "CRDTMEM_NODE_NAME": "from-env", "HOME": "/"}
    settings = load(toml, environment, {"node-name": "from-flag", "listen": None})
    assert (settings.region, settings.cluster, settings.node_name) == (
        "from-file",
        "from-env",
        "from-flag",
    )
    assert settings.listen == Settings().listen, "a flag that was not given changes nothing"
    sources = {row.name: row.source for row in explain(settings)}
    assert sources["region"] == str(toml)
    assert sources["cluster"] == "CRDTMEM_CLUSTER"
    assert sources["node_name"] == "--node-name"
    assert sources["listen"] == "default"


def test_sections_are_reached_from_every_source(toml: Path) -> None:
    assert load(toml).limits.siblings == 8
    assert load(toml, {"CRDTMEM_LIMITS__SIBLINGS": "9"}).limits.siblings == 9
    assert load(toml, {}, {"limits.siblings": 10}).limits.siblings == 10
    assert load(toml, {}, {"limits": {"siblings": "11"}}).limits.siblings == 11
    assert load(toml).limits.key_bytes == 2048, "one setting of a section leaves the others alone"


def test_a_list_may_be_written_with_commas(toml: Path) -> None:
    assert load(toml).peers == ("one:7420", "two:7420")
    assert load(toml, {"CRDTMEM_PEERS": "three:1, four:2,"}).peers == ("three:1", "four:2")
    assert load(toml, {"CRDTMEM_PEERS": ""}).peers == ()


def test_switches_are_read_from_text() -> None:
    settings = load(None, {"CRDTMEM_ALLOW_PUBLIC_LISTEN": "true", "CRDTMEM_LISTEN": "10.0.0.1:1"})
    assert settings.allow_public_listen


@pytest.mark.parametrize("variable", sorted(RESERVED_VARIABLES))
def test_reserved_variables_are_not_settings(variable: str) -> None:
    assert load(None, {variable: "1"}) == Settings()


# ------------------------------------------------------------------ refusals


def test_unknown_names_are_refused_with_the_nearest_known_one(toml: Path) -> None:
    toml.write_text('regoin = "eu"\n[limits]\nkey_byte = 4\n')
    error = refusal(toml, {"CRDTMEM_SIBLINGS": "4"}, {"lisen": "x:1"})
    assert error.details["problems"] == [
        f"{toml}: there is no setting 'regoin'; did you mean 'region'?",
        f"{toml}: there is no setting 'limits.key_byte'; did you mean 'limits.key_bytes'?",
        "CRDTMEM_SIBLINGS: there is no setting 'siblings'; did you mean 'limits.siblings'?",
        "--lisen: there is no setting 'lisen'; did you mean 'listen'?",
    ]


def test_every_wrong_value_is_named_with_its_source(toml: Path) -> None:
    toml.write_text('region = "EU West"\n')
    error = refusal(toml, {"CRDTMEM_CLOCK__SKEW_ALARM_MS": "soon"}, {"peers": "a:1,b"})
    found = "\n".join(error.details["problems"])
    for part in (f"{toml}: region:", "CRDTMEM_CLOCK__SKEW_ALARM_MS: clock.skew", "--peers: peers:"):
        assert part in found


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"region": ""}, "region"),
        ({"region": "a" * 33}, "region"),
        ({"region": "eu\n"}, "region"),
        ({"region": True}, "no switch"),
        ({"store": "crdtmem.db"}, "names no engine"),
        ({"listen": "7420"}, "not HOST:PORT"),
        ({"listen": "127.0.0.1:65536"}, "no port"),
        ({"peers": ["one:0"]}, "no port"),
        ({"peers": ["one:1", "one:1"]}, "twice"),
        ({"control_socket": "/" + "s" * 107}, "107 bytes"),
        ({"log_level": "loud"}, "debug"),
        ({"limits.siblings": 0}, "at least 1"),
        ({"limits.siblings": 1.5}, "integer"),
        ({"limits.siblings": True}, "no switch"),
        ({"limits.key_bytes": "1 KB"}, "no size"),
        ({"group_commit.linger_ms": -1}, "greater than or equal"),
    ],
)
def test_values_that_cannot_be_used(flags: Mapping[str, object], part: str) -> None:
    assert part in str(refusal(None, {}, flags))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"limits.batch_bytes": "1 MiB"}, ["limits.value_bytes", "limits.batch_bytes"]),
        ({"limits.frame_bytes": "4 MiB"}, ["limits.frame_bytes", "limits.batch_bytes"]),
        ({"limits.batch_deltas": 30_000}, ["group_commit.flight_deltas", "limits.batch_deltas"]),
        ({"limits.frame_bytes": "16 MiB"}, ["streams.credit_window_bytes", "limits.frame_bytes"]),
        ({"reconnect.minimum_ms": 20_000}, ["reconnect.maximum_ms", "reconnect.minimum_ms"]),
    ],
)
def test_contradictions_name_both_sides_and_their_sources(
    flags: Mapping[str, object], named: list[str]
) -> None:
    message = str(refusal(None, {}, flags))
    (flag,) = flags
    assert f"{flag} from --{flag.replace('_', '-')}" in message
    for name in named:
        assert name in message


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "[::]", "memory.example.org", "[::2]"])
def test_plain_text_is_not_spoken_to_the_outside_by_accident(host: str) -> None:
    plain = {"listen": f"{host}:7420", "advertise": "10.0.0.7:7420", "mesh.plain_text": True}
    assert "allow_public_listen" in str(refusal(None, {}, plain))
    assert load(None, {}, {**plain, "allow_public_listen": True}).listen == f"{host}:7420"
    assert load(None, {}, {**plain, "mesh.plain_text": False}).listen == f"{host}:7420"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_who_listens_everywhere_says_where_it_can_be_reached(host: str) -> None:
    assert "advertise" in str(refusal(None, {}, {"listen": f"{host}:7420"}))
    assert "nobody can dial" in str(refusal(None, {}, {"advertise": f"{host}:7420"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert load(None, {}, {"listen": f"{host}:0"}).listen == f"{host}:0"


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "crdtmem.toml"
    assert "does not exist" in str(refusal(path))
    path.write_text("region = \n")
    assert "not TOML" in str(refusal(path))
    assert str(path) in str(refusal(path))
    path.write_bytes(b'region = "\xff"\n')
    assert "not UTF-8" in str(refusal(path))
    path.unlink()
    path.mkdir()
    assert "cannot be read" in str(refusal(path))


# ------------------------------------------------------------------ explained


def test_every_setting_is_explained() -> None:
    rows = explain(Settings())
    assert len(rows) == len(DESCRIPTIONS) > 20
    for row in rows:
        assert row.description.endswith("."), f"{row.name} is not explained in sentences"
        assert row.source == "default"
        assert row.value == look_up(Settings(), row.name)


@pytest.mark.parametrize("address", ["0.0.0.0:7480", "192.0.2.7:7480", "[::]:7480", "node:7480"])
def test_http_beyond_the_machine_is_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1") as caught:
        load(None, {}, {"http.listen": address})
    assert "http.listen" in str(caught.value)


@pytest.mark.parametrize("address", ["", "127.0.0.1:0", "[::1]:7480", "localhost:7480"])
def test_http_listens_on_loopback(address: str) -> None:
    assert load(None, {}, {"http.listen": address}).http.listen == address


def test_names_end_in_their_unit() -> None:
    for name, value in ((row.name, row.value) for row in explain(Settings())):
        if type(value) is int:
            assert name.endswith(
                (
                    *("_bytes", "_ms", "_days", "deltas", "siblings", "_per_peer", "members"),
                    *("connections", "transactions", "waiters"),
                    *("operations", "streams", "_per_client"),
                )
            ), f"{name} is a number of what?"


def test_passwords_are_not_printed() -> None:
    settings = load(None, {}, {"store": "postgresql://ann:s3cret@db/crdtmem"})
    shown = {row.name: row.value for row in explain(settings)}["store"]
    assert shown == "postgresql://ann:***@db/crdtmem"
    assert settings.store == "postgresql://ann:s3cret@db/crdtmem"


def test_settings_and_limits_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().region = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        DEFAULT_LIMITS.siblings = 3  # type: ignore[misc]


def test_limits_hold_wherever_they_are_made() -> None:
    assert replace(DEFAULT_LIMITS, siblings=1).siblings == 1
    with pytest.raises(ConfigError, match="siblings is 0"):
        replace(DEFAULT_LIMITS, siblings=0)
    with pytest.raises(ConfigError, match="too small for batch_bytes"):
        replace(DEFAULT_LIMITS, frame_bytes=DEFAULT_LIMITS.batch_bytes + FRAME_OVERHEAD_BYTES - 1)


def test_loading_reads_no_ambient_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "CRDTMEM_REGION", "ambient")
    assert load().region == Settings().region


# ------------------------------------------------------------------ parsing


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("4096", 4096), ("4_096 B", 4096), ("64KiB", 65536), (" 8 MiB ", 8 * 1024**2)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "no size" in str(error)  # noqa: PT017 (either outcome is right)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.text(max_size=12), st.integers())))
def test_any_environment_loads_or_is_a_config_error(given_flags: dict[str, object]) -> None:
    environment = {f"CRDTMEM_{name}": str(value) for name, value in given_flags.items()}
    try:
        settings = load(None, environment, given_flags)
        assert settings.limits.frame_bytes > settings.limits.batch_bytes
    except ConfigError as error:
        assert error.details["problems"]  # noqa: PT017 (either outcome is right)


# ------------------------------------------------------------------ the mesh's constants


def test_constants_of_the_mesh_change_both_pools() -> None:
    given = {"mesh.constants": "probe_interval_us=200000,probe_timeout_us=100000"}
    settings = load(flags={**given, "listen": "10.0.0.1:7420"})
    near, far = settings.mesh.pools(settings.listen)
    assert (near.probe_interval_us, far.probe_interval_us) == (200_000, 200_000)
    assert near.suspicion_multiplier < far.suspicion_multiplier


@pytest.mark.parametrize(
    "constants",
    [
        "probe_interval_us",
        "probe_interval_us=soon",
        "probing=3",
        "probe_interval_us=1",
        "probe_interval_us=1000",
        "probe_interval_us=20000",
    ],
)
def test_constants_of_the_mesh_are_held_to_their_ranges(constants: str) -> None:
    error = refusal(flags={"mesh.constants": constants})
    assert "mesh.constants" in str(error.details)
