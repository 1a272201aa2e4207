# SPDX-License-Identifier: Apache-2.0
"""Reading configuration files and complaining about them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import config, duration
from common.errors import ConfigError

PATH = Path("/config/hypernet/test.yaml")


class Failure(StrEnum):
    ROLLBACK = "rollback"
    RETRY = "retry"


def section(text: str) -> config.Section:
    return config.parse(text.encode(), PATH)


def test_all_kinds_of_values_are_read() -> None:
    root = section(
        "name: hypernet\nport: 80\nfast: yes\nfailure: retry\nmode: off\nlimit: 1h 30min\n"
        'hosts: [a, "1"]\nnested: {deeper: {x: 1}}\nchecks:\n  - {unit: a}\n  - {unit: b}\n'
    )
    assert root.get_str("name") == "hypernet"
    assert root.get_int("port") == 80
    assert root.get_bool("fast") is True
    assert root.get_enum("failure", Failure) is Failure.RETRY
    assert root.get_enum("mode", ("on", "off")) == "off"
    assert root.get_duration_sec("limit") == 5400
    assert root.get_strings("hosts") == ("a", "1")
    assert root.section("nested").section("deeper").get_int("x") == 1
    assert [check.get_str("unit") for check in root.sections("checks")] == ["a", "b"]
    root.finish()


def test_missing_values_have_defaults() -> None:
    root = section("empty:\n")
    assert root.get_str("name", "x") == "x"
    assert root.get_int("port", None) is None
    assert root.get_int("empty", 3) == 3
    assert root.get_enum("failure", Failure, Failure.ROLLBACK) is Failure.ROLLBACK
    assert root.get_duration_sec("limit", 2.5) == 2.5
    assert root.get_strings("hosts") == ()
    assert root.section("nested").get_bool("fast", False) is False
    assert root.section("empty").keys() == ()
    assert root.sections("checks") == ()
    root.finish()


@pytest.mark.parametrize(
    ("text", "read", "complaint"),
    [
        ("\nport: x", lambda s: s.get_int("port"), ":2: port: must be a whole number."),
        ('port: "8"', lambda s: s.get_int("port"), ":1: port: must be a whole number."),
        ("port: 0x10", lambda s: s.get_int("port"), ":1: port: must be a whole number."),
        (
            "port: 0",
            lambda s: s.get_int("port", minimum=1),
            ":1: port: 0 is too small, at least 1 is allowed.",
        ),
        (
            "port: 9",
            lambda s: s.get_int("port", maximum=8),
            ":1: port: 9 is too large, at most 8 is allowed.",
        ),
        ("", lambda s: s.get_int("port"), ":1: port: is missing, but it is required."),
        ("a: 1\nport:", lambda s: s.get_int("port"), ":2: port: has no value, but it is required."),
        (
            "version: 1.0",
            lambda s: s.get_str("version"),
            ':1: version: must be a string, write it in quotes: "1.0".',
        ),
        ("name: [a]", lambda s: s.get_str("name"), ":1: name: must be a string."),
        ("fast: maybe", lambda s: s.get_bool("fast"), ":1: fast: must be yes or no."),
        ('fast: "yes"', lambda s: s.get_bool("fast"), ":1: fast: must be yes or no."),
        (
            "failure: panic",
            lambda s: s.get_enum("failure", Failure),
            ":1: failure: 'panic' is not allowed, allowed are rollback, retry.",
        ),
        (
            "limit: 5 parsec",
            lambda s: s.get_duration_sec("limit"),
            ":1: limit: must be a time span such as 10, 10s, 5min or '1h 30min'.",
        ),
        (
            "limit: 2h",
            lambda s: s.get_duration_sec("limit", maximum=3600),
            ":1: limit: 7200 s is too large, at most 3600 s is allowed.",
        ),
        ("hosts: a", lambda s: s.get_strings("hosts"), ":1: hosts: must be a list of strings."),
        (
            "hosts:\n- a\n- 1",
            lambda s: s.get_strings("hosts"),
            ':3: hosts[1]: must be a string, write it in quotes: "1".',
        ),
        ("nested: 1", lambda s: s.section("nested"), ":1: nested: must be a mapping (key: value)."),
        (
            "nested:\n  x: a",
            lambda s: s.section("nested").get_int("x"),
            ":2: nested.x: must be a whole number.",
        ),
        (
            "checks:\n- x: 1\n- 2",
            lambda s: s.sections("checks"),
            ":3: checks[1]: must be a mapping (key: value).",
        ),
        (
            "checks:\n- {}\n- {x: a}",
            lambda s: [c.get_int("x", 0) for c in s.sections("checks")],
            ":3: checks[1].x: must be a whole number.",
        ),
        ("checks: {}", lambda s: s.sections("checks"), ":1: checks: must be a list of mappings."),
    ],
)
def test_a_wrong_value_is_named_with_file_line_key_and_what_is_allowed(
    text: str, read: Callable[[config.Section], object], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(section(text))
    assert str(caught.value) == f"{PATH}{complaint}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\na: 2", ":2: a: is here twice, first in line 1; keep one."),
        ("a: [", ":1: not valid YAML: "),
        ("a: 1\n b: 2", ":2: not valid YAML: mapping values are not allowed here."),
        ("a: *x", ":1: not valid YAML: found undefined alias"),
        ("- a", ":1: must be a mapping (key: value) at the top."),
        ("[a]: 1", ":1: a key must be a single word."),
        ("a: 1\n---\nb: 2", ":2: not valid YAML: but found another document."),
        ("[" * 100_000, ":1: nested too deeply"),
        ("a: \x07", ":1: not valid YAML: "),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        section(text)
    assert str(caught.value).startswith(f"{PATH}{complaint}")


def test_text_that_is_not_utf8_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=":2: not UTF-8 text"):
        config.parse(b"a: 1\nb: \xff", PATH)


def test_unknown_keys_are_errors_at_every_level() -> None:
    root = section("a: 1\nnested:\n  x: 1\n  y: 2\n")
    root.get_int("a")
    root.section("nested").get_int("x")
    with pytest.raises(ConfigError, match=r":4: nested\.y: unknown key, allowed here are: x\.$"):
        root.finish()


def test_an_unknown_key_at_the_top_names_what_is_allowed() -> None:
    root = section("prot: 1")
    root.get_int("port", 80)
    root.get_str("host", "")
    with pytest.raises(ConfigError, match=r":1: prot: unknown key, allowed here are: host, port\.$"):
        root.finish()


def test_a_mapping_with_free_names_is_walked() -> None:
    root = section("checks:\n  disk: {limit: 1}\n  web: {limit: 2}\n")
    limits = {name: item.get_int("limit") for name, item in root.section("checks").items()}
    assert limits == {"disk": 1, "web": 2}
    root.finish()


def test_a_check_of_the_caller_complains_in_the_same_way() -> None:
    root = section("a: 1\nurl: ftp://x\n")
    assert root.where == f"{PATH}:1"
    assert str(root.error("url", "must begin with https")) == f"{PATH}:2: url: must begin with https."


def test_a_missing_file_is_an_error_unless_it_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match=f"^{path}: there is no such file; create it"):
        config.load(path)
    assert config.load(path, optional=True).get_int("x", 1) == 1


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x: 12\n")
    assert config.load(path).get_int("x") == 12
    with pytest.raises(ConfigError, match="it is larger than 3 bytes"):
        config.load(path, max_bytes=3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("10s", 10),
        ("5min", 300),
        ("1h 30min", 5400),
        ("1h30min", 5400),
        ("2 h", 7200),
        ("1.5 sec", 1.5),
        ("500ms", 0.5),
        ("1week 2days", 777600),
        ("5 30", 35),
    ],
)
def test_time_spans_are_those_of_systemd(text: str, seconds: float) -> None:
    assert duration.parse_sec(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "s", "-5", "5 parsec", "1h,5", "1..5s", "infinity", "٣s"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time span"):
        duration.parse_sec(text)


@pytest.mark.parametrize(
    ("text", "end_of_day", "seconds"),
    [
        ("1970-01-01", False, 0),
        ("1970-01-01", True, 86399),
        ("2026-11-23", False, 1795392000),
        ("2026-11-23T12:00:00Z", False, 1795435200),
        ("2026-11-23T12:00:00Z", True, 1795435200),
        ("'2026-11-23'", False, 1795392000),
    ],
)
def test_times_are_dates_or_seconds_in_utc(text: str, end_of_day: bool, seconds: int) -> None:
    assert section(f"t: {text}").get_time_sec("t", end_of_day=end_of_day) == seconds


@pytest.mark.parametrize(
    "text", ["1", "soon", "2026-13-01", "2026-02-30", "1969-12-31", "2026-11-23 12:00:00", "[2026-11-23]"]
)
def test_what_is_no_time_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="t: must be a UTC date or time such as"):
        section(f"t: {text}").get_time_sec("t")


def test_the_seconds_of_a_time_are_written_as_they_are_read() -> None:
    assert duration.format_time(1795435200) == "2026-11-23T12:00:00Z"
    assert duration.parse_time_sec(duration.format_time(1795435200)) == 1795435200


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\" \n#?,1", max_size=60).map(str.encode))
def test_no_file_causes_another_error_than_a_complaint(data: bytes) -> None:
    with suppress(ConfigError):
        root = config.parse(data, PATH)
        for key in root.keys():  # noqa: SIM118
            for read in (
                root.get_str,
                root.get_int,
                root.get_bool,
                root.get_duration_sec,
                root.get_time_sec,
                root.get_strings,
            ):
                with suppress(ConfigError):
                    read(key)
        root.finish()
