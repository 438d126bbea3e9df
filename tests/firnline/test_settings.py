"""The environment as settings: names, values, refusals."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from firnline.settings import AWS_VARIABLES, Settings, is_loopback, read, variables
from firnline.settings_text import parse_bytes
from storage.errors import InvalidError


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read({"HOME": "/root", "PATH": "/bin"})
    assert settings == Settings()
    assert (settings.lake, settings.host, settings.port) == ("./lake", "127.0.0.1", 8080)


def test_values_are_read_by_their_kind() -> None:
    settings = read(
        {
            "FIRN_PORT": "0",
            "FIRN_ALLOW": "/data, s3://bucket/x ,",
            "FIRN_MEMORY_LIMIT": "1.5GiB",
            "FIRN_REQUIRE_TOKENS": "yes",
            "FIRN_STATEMENT_TIMEOUT_MS": "1500",
        }
    )
    assert settings.port == 0
    assert settings.allow == ("/data", "s3://bucket/x")
    assert settings.memory_bytes == 3 << 29
    assert settings.require_tokens is True
    assert settings.statement_timeout_ms == 1500


def test_a_misspelt_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        InvalidError, match=r"did you mean FIRN_STATEMENT_TIMEOUT_MS\? variable=FIRN_STATEMENT_TIMEOUT$"
    ):
        read({"FIRN_STATEMENT_TIMEOUT": "5"})


def test_a_name_that_resembles_none_points_to_the_list() -> None:
    with pytest.raises(InvalidError, match=r"docs/settings.md"):
        read({"FIRN_XYZZY": "5"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FIRN_PORT", "eighty"),
        ("FIRN_PORT", "-1"),
        ("FIRN_PORT", "65536"),
        ("FIRN_MEMORY_LIMIT", "4 bananas"),
        ("FIRN_REQUIRE_TOKENS", "maybe"),
        ("FIRN_FUNCTIONS", "lamda:worker"),
        ("FIRN_FUNCTIONS", "processes:many"),
    ],
)
def test_a_value_that_does_not_read_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(InvalidError, match=name):
        read({name: value})


@pytest.mark.parametrize("text", ["eighty", "-1", "65536", "80.0", "tcp://10.0.0.1:80"])
def test_a_platforms_port_that_is_none_is_refused_where_it_is_needed_and_only_there(text: str) -> None:
    settings = read({"PORT": text})
    assert settings.port_of(9000, 8080) == 9000
    assert settings.port_of(0, 8080) == 0
    with pytest.raises(InvalidError, match=rf"environment's PORT does not read: .*65535 value='{text}'"):
        settings.port_of(None, 8080)


def test_a_port_is_the_options_else_the_platforms_else_the_default() -> None:
    assert read({"PORT": "9001"}).port_of(9000, 8080) == 9000
    assert read({"PORT": "9001"}).port_of(None, 8080) == 9001
    assert read({"PORT": ""}).port_of(None, 8080) == 8080
    assert read({}).port_of(None, 8080) == 8080


def test_a_short_secret_is_refused_with_how_to_make_one_and_is_not_told() -> None:
    for secret in (
        "too-short",
        "too-short" + 22 * "x",
        32 * "n" + ",too-short",
        "too-short," + 32 * "o",
        32 * "n" + ",",
    ):
        with pytest.raises(InvalidError, match=r"FIRN_TASK_SECRET.* 32 .*openssl rand -hex 32") as refused:
            read({"FIRN_TASK_SECRET": secret})
        assert "too-short" not in str(refused.value)
        assert "value" not in refused.value.facts
    assert read({"FIRN_TASK_SECRET": 32 * "n"}).task_secret == 32 * "n"
    assert read({"FIRN_TASK_SECRET": 32 * "n" + "," + 40 * "o"}).task_secret == 32 * "n" + "," + 40 * "o"


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("0", 0), ("512", 512), ("1k", 1000), ("1KiB", 1024), ("2 GiB", 2 << 30), ("1.5m", 1_500_000), ("3T", 3 * 10**12)],
)
def test_sizes_are_read_with_their_units(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


def test_an_empty_variable_is_as_if_unset_but_for_the_history() -> None:
    settings = read({"FIRN_LAKE": "", "FIRN_TOKEN": "", "FIRN_HISTORY": "", "NO_COLOR": ""})
    assert settings.lake == "./lake"
    assert settings.token is None
    assert settings.history == ""
    assert settings.no_color is False


def test_s3_takes_the_standard_environment() -> None:
    options = read(
        {
            "AWS_ENDPOINT_URL": "https://general.example",
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
        }
    ).s3_options()
    assert (options.endpoint, options.region) == ("http://127.0.0.1:9000", "eu-west-1")
    assert (options.access_key_id, options.secret_access_key, options.session_token) == ("key", "secret", "token")


def test_plain_http_beyond_this_machine_needs_a_setting() -> None:
    remote = {"AWS_ENDPOINT_URL_S3": "http://minio.example:9000"}
    with pytest.raises(InvalidError, match="FIRN_ALLOW_HTTP=1"):
        read(remote).s3_options()
    assert read({**remote, "FIRN_ALLOW_HTTP": "1"}).s3_options().allow_http is True


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST"])
def test_loopback_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.evil.example", "localhost.evil.example", "10.0.0.1", "", None])
def test_names_that_are_not_loopback(host: str | None) -> None:
    assert not is_loopback(host)


def test_secrets_do_not_show() -> None:
    settings = read({"FIRN_TOKEN": "firn_hush", "AWS_SECRET_ACCESS_KEY": "hush"})
    assert "hush" not in repr(settings)


def test_settings_are_values() -> None:
    settings = read({"FIRN_LAKE": "s3://b/x"})
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(FrozenInstanceError):
        settings.lake = "elsewhere"  # type: ignore[misc]


def test_every_variable_has_a_sentence_and_its_own_name() -> None:
    found = [variable for variable, _default in variables().values()]
    assert len({variable.name for variable in found}) == len(found)
    assert all(variable.doc.endswith(".") for variable in found)
    assert all(doc.endswith(".") for doc in AWS_VARIABLES.values())
