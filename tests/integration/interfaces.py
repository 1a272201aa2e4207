# SPDX-License-Identifier: Apache-2.0
"""What callers rely on of a D-Bus interface, read from introspection data."""

import xml.etree.ElementTree as ET

from tests.integration.root_tree import TOP

Members = dict[str, tuple[str | None, str | None, list[tuple[str, str | None]]]]
"""Kind and name of each member; its type and access (properties), its arguments' directions and types."""


def shown(xml: str, interface: str) -> Members:
    """Return the members of an interface that a running service shows for an object."""
    return _members(ET.fromstring(xml), interface)


def documented(interface: str) -> Members:
    """Return the members of an interface in units/dbus/interfaces."""
    for path in (TOP / "units/dbus/interfaces").glob("*.xml"):
        root = ET.parse(path).getroot()
        if any(each.get("name") == interface for each in root.iter("interface")):
            return _members(root, interface)
    raise AssertionError(f"{interface} is not documented")


def _members(root: ET.Element, interface: str) -> Members:
    (element,) = (each for each in root.iter("interface") if each.get("name") == interface)
    found: Members = {}
    for member in element:
        if member.tag not in ("method", "signal", "property"):
            continue
        default = "in" if member.tag == "method" else "out"
        arguments = [(arg.get("direction", default), arg.get("type")) for arg in member.findall("arg")]
        # The order matters among those that go in and among those that come out, not between them.
        arguments.sort(key=lambda argument: argument[0])
        found[f"{member.tag} {member.get('name')}"] = (member.get("type"), member.get("access"), arguments)
    return found
