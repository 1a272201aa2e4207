# SPDX-License-Identifier: Apache-2.0
"""Typed reading of a YAML configuration file.

Every complaint is a ConfigError that reads "FILE:LINE: key: what is wrong, what is allowed". Only the YAML
node tree is used: nothing is constructed, so tags, anchors and merge keys cannot do anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final, TypeVar, overload

import yaml

from common import duration, files
from common.errors import ConfigError

D = TypeVar("D")
E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

_WHOLE_NUMBER: Final = re.compile("-?[0-9]{1,18}")
_BOOLEANS: Final = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class Required(Enum):
    """Type of REQUIRED."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED
"""Default of the getters: the key must be there."""


class Section:
    """One mapping of a file. ``where`` is "FILE:LINE" of its beginning.

    Each getter takes a key and an optional default, which is returned when the key is missing. Each raises
    ConfigError. finish() complains about keys that no getter asked for.
    """

    def __init__(self, path: Path, node: yaml.MappingNode | None, line: int, prefix: str) -> None:
        self.where = f"{path}:{line}"
        self._path = path
        self._prefix = prefix
        self._line = line
        self._entries: dict[str, tuple[int, yaml.Node]] = {}
        self._known: set[str] = set()
        self._sections: list[Section] = []
        for key_node, value_node in node.value if node is not None else ():
            self._add(key_node, value_node)

    def keys(self) -> tuple[str, ...]:
        """Return the keys that the file has here, in its order."""
        return tuple(self._entries)

    def items(self) -> Iterator[tuple[str, Section]]:
        """Return the entries as (key, section): for a mapping whose keys are names that the file chooses."""
        for key in self._entries:
            yield key, self.section(key)

    @overload
    def get_str(self, key: str) -> str: ...
    @overload
    def get_str(self, key: str, default: D) -> str | D: ...
    def get_str(self, key: str, default: object = REQUIRED) -> object:
        """Return a string."""
        return self._get(key, default, self._to_str)

    @overload
    def get_int(self, key: str, *, minimum: int | None = ..., maximum: int | None = ...) -> int: ...
    @overload
    def get_int(
        self, key: str, default: D, *, minimum: int | None = ..., maximum: int | None = ...
    ) -> int | D: ...
    def get_int(
        self,
        key: str,
        default: object = REQUIRED,
        *,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> object:
        """Return a decimal whole number from minimum to maximum."""

        def convert(key: str, line: int, node: yaml.Node) -> int:
            text = _text(node)
            if text is None or _is_quoted(node) or not _WHOLE_NUMBER.fullmatch(text):
                raise self._error(key, line, "must be a whole number")
            number = int(text)
            self._check_range(key, line, number, minimum, maximum, "")
            return number

        return self._get(key, default, convert)

    @overload
    def get_bool(self, key: str) -> bool: ...
    @overload
    def get_bool(self, key: str, default: D) -> bool | D: ...
    def get_bool(self, key: str, default: object = REQUIRED) -> object:
        """Return a truth value, written as YAML 1.1 does: yes, no, true, false, on, off."""

        def convert(key: str, line: int, node: yaml.Node) -> bool:
            value = _BOOLEANS.get((_text(node) or "").lower())
            if value is None or _is_quoted(node):
                raise self._error(key, line, "must be yes or no")
            return value

        return self._get(key, default, convert)

    @overload
    def get_enum(self, key: str, allowed: type[E]) -> E: ...
    @overload
    def get_enum(self, key: str, allowed: type[E], default: D) -> E | D: ...
    @overload
    def get_enum(self, key: str, allowed: tuple[str, ...]) -> str: ...
    @overload
    def get_enum(self, key: str, allowed: tuple[str, ...], default: D) -> str | D: ...
    def get_enum(
        self, key: str, allowed: type[StrEnum] | tuple[str, ...], default: object = REQUIRED
    ) -> object:
        """Return one of the allowed words; a member of the class if allowed is a StrEnum."""
        words = {str(word): word for word in allowed}

        def convert(key: str, line: int, node: yaml.Node) -> str:
            text = _text(node)
            if text not in words:
                what = "must be a single word" if text is None else f"{text!r} is not allowed"
                raise self._error(key, line, f"{what}, allowed are {', '.join(words)}")
            return words[text]

        return self._get(key, default, convert)

    @overload
    def get_duration_sec(
        self, key: str, *, minimum: float | None = ..., maximum: float | None = ...
    ) -> float: ...
    @overload
    def get_duration_sec(
        self, key: str, default: D, *, minimum: float | None = ..., maximum: float | None = ...
    ) -> float | D: ...
    def get_duration_sec(
        self,
        key: str,
        default: object = REQUIRED,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> object:
        """Return a time span in seconds, written as in systemd.time(7): 10, "10s", "5min", "1h 30min"."""

        def convert(key: str, line: int, node: yaml.Node) -> float:
            try:
                seconds = duration.parse_sec(_text(node) or "")
            except ValueError:
                raise self._error(
                    key, line, "must be a time span such as 10, 10s, 5min or '1h 30min'"
                ) from None
            self._check_range(key, line, seconds, minimum, maximum, " s")
            return seconds

        return self._get(key, default, convert)

    @overload
    def get_time_sec(self, key: str, *, end_of_day: bool = ...) -> int: ...
    @overload
    def get_time_sec(self, key: str, default: D, *, end_of_day: bool = ...) -> int | D: ...
    def get_time_sec(self, key: str, default: object = REQUIRED, *, end_of_day: bool = False) -> object:
        """Return a time in seconds since 1970: a UTC date, or a time such as 2026-11-23T12:00:00Z.

        end_of_day: a date means its last second, not its first.
        """

        def convert(key: str, line: int, node: yaml.Node) -> int:
            try:
                return duration.parse_time_sec(_text(node) or "", end_of_day=end_of_day)
            except ValueError:
                raise self._error(
                    key, line, "must be a UTC date or time such as 2026-11-23 or 2026-11-23T12:00:00Z"
                ) from None

        return self._get(key, default, convert)

    def get_strings(self, key: str, default: tuple[str, ...] | Required = ()) -> tuple[str, ...]:
        """Return a list of strings."""

        def convert(key: str, line: int, node: yaml.Node) -> tuple[str, ...]:
            if not isinstance(node, yaml.SequenceNode):
                raise self._error(key, line, "must be a list of strings")
            return tuple(self._to_str(f"{key}[{i}]", _line(item), item) for i, item in enumerate(node.value))

        return self._get(key, default, convert)

    def section(self, key: str) -> Section:
        """Return the mapping under key; an empty one if the key is missing or has no value."""

        def convert(key: str, line: int, node: yaml.Node) -> Section:
            if not isinstance(node, yaml.MappingNode):
                raise self._error(key, line, "must be a mapping (key: value)")
            return self._hand_out(key, line, node)

        return self._get(key, None, convert) or self._hand_out(key, self._line, None)

    def sections(self, key: str) -> tuple[Section, ...]:
        """Return the list of mappings under key; empty if the key is missing or has no value."""

        def convert(key: str, line: int, node: yaml.Node) -> tuple[Section, ...]:
            if not isinstance(node, yaml.SequenceNode):
                raise self._error(key, line, "must be a list of mappings")
            found = []
            for index, item in enumerate(node.value):
                name = f"{key}[{index}]"
                if not isinstance(item, yaml.MappingNode):
                    raise self._error(name, _line(item), "must be a mapping (key: value)")
                found.append(self._hand_out(name, _line(item), item))
            return tuple(found)

        return self._get(key, (), convert)

    def error(self, key: str, complaint: str) -> ConfigError:
        """Return the ConfigError "FILE:LINE: key: complaint" for a check of the caller's own."""
        line = self._entries[key][0] if key in self._entries else self._line
        return self._error(key, line, complaint)

    def finish(self) -> None:
        """Raise ConfigError for the first key, here or in a section handed out, that nothing asked for."""
        for key, (line, _node) in self._entries.items():
            if key not in self._known:
                allowed = ", ".join(sorted(self._known)) or "none"
                raise self._error(key, line, f"unknown key, allowed here are: {allowed}")
        for section in self._sections:
            section.finish()

    def _add(self, key_node: yaml.Node, value_node: yaml.Node) -> None:
        line = _line(key_node)
        key = _text(key_node)
        if key is None:
            raise ConfigError(f"{self._path}:{line}: a key must be a single word.")
        if key in self._entries:
            raise self._error(key, line, f"is here twice, first in line {self._entries[key][0]}; keep one")
        self._entries[key] = (line, value_node)

    def _get(self, key: str, default: object, convert: Callable[[str, int, yaml.Node], T]) -> T:
        self._known.add(key)
        if key not in self._entries:
            return self._default(key, self._line, "is missing", default)
        line, node = self._entries[key]
        if _is_null(node):
            return self._default(key, line, "has no value", default)
        return convert(key, line, node)

    def _default(self, key: str, line: int, what: str, default: object) -> T:  # type: ignore[type-var]
        if default is REQUIRED:
            raise self._error(key, line, f"{what}, but it is required")
        return default  # type: ignore[return-value]

    def _hand_out(self, key: str, line: int, node: yaml.MappingNode | None) -> Section:
        section = Section(self._path, node, line, f"{self._prefix}{key}.")
        self._sections.append(section)
        return section

    def _to_str(self, key: str, line: int, node: yaml.Node) -> str:
        text = _text(node)
        if text is None:
            raise self._error(key, line, "must be a string")
        if node.tag != "tag:yaml.org,2002:str":
            raise self._error(key, line, f'must be a string, write it in quotes: "{text}"')
        return text

    def _check_range(
        self, key: str, line: int, value: float, minimum: float | None, maximum: float | None, unit: str
    ) -> None:
        if minimum is not None and value < minimum:
            raise self._error(
                key, line, f"{value:g}{unit} is too small, at least {minimum:g}{unit} is allowed"
            )
        if maximum is not None and value > maximum:
            raise self._error(
                key, line, f"{value:g}{unit} is too large, at most {maximum:g}{unit} is allowed"
            )

    def _error(self, key: str, line: int, complaint: str) -> ConfigError:
        return ConfigError(f"{self._path}:{line}: {self._prefix}{key}: {complaint}.")


def load(path: Path, *, max_bytes: int = 1 << 20, optional: bool = False) -> Section:
    """Read a YAML file whose top is a mapping; an empty file is an empty mapping.

    optional: a missing file is an empty mapping too. Raises ConfigError.
    """
    try:
        data = files.read_bounded(path, max_bytes)
    except files.FileMissing:
        if optional:
            return Section(path, None, 1, "")
        raise ConfigError(f"{path}: there is no such file; create it.") from None
    except files.FileError as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> Section:
    """Read YAML text as load() does; path is only used for complaints."""
    try:
        node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}:1: not valid YAML: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise ConfigError(f"{path}:1: nested too deeply; use fewer levels.") from None
    if node is None or _is_null(node):
        return Section(path, None, 1, "")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{_line(node)}: must be a mapping (key: value) at the top.")
    return Section(path, node, _line(node), "")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _text(node: yaml.Node) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _is_quoted(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is not None


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")
