# SPDX-License-Identifier: Apache-2.0
"""Introspection data of exported objects, see the D-Bus specification, "Introspection Data Format"."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from common.bus._interface import Interface, Method, Property, Signal
from common.bus._values import types_of

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_STANDARD = """<node>
<interface name="org.freedesktop.DBus.Introspectable">
<method name="Introspect"><arg name="data" type="s" direction="out"/></method>
</interface>
<interface name="org.freedesktop.DBus.Peer">
<method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
<method name="Ping"/>
</interface>
<interface name="org.freedesktop.DBus.Properties">
<method name="Get">
<arg name="interface" type="s" direction="in"/>
<arg name="property" type="s" direction="in"/>
<arg name="value" type="v" direction="out"/>
</method>
<method name="GetAll">
<arg name="interface" type="s" direction="in"/>
<arg name="properties" type="a{sv}" direction="out"/>
</method>
<method name="Set">
<arg name="interface" type="s" direction="in"/>
<arg name="property" type="s" direction="in"/>
<arg name="value" type="v" direction="in"/>
</method>
<signal name="PropertiesChanged">
<arg name="interface" type="s"/>
<arg name="changed_properties" type="a{sv}"/>
<arg name="invalidated_properties" type="as"/>
</signal>
</interface>
</node>"""


def document(interfaces: Iterable[Interface], children: Iterable[str]) -> str:
    """Return the XML text for an object with these interfaces and child nodes (relative names)."""
    interfaces = list(interfaces)
    root = ElementTree.fromstring(_STANDARD) if interfaces else ElementTree.Element("node")
    for interface in interfaces:
        root.append(_element(interface))
    for child in sorted(children):
        ElementTree.SubElement(root, "node", name=child)
    ElementTree.indent(root)
    return _DOCTYPE + ElementTree.tostring(root, encoding="unicode") + "\n"


def _element(interface: Interface) -> ElementTree.Element:
    element = ElementTree.Element("interface", name=interface.INTERFACE)
    for member in interface._members:
        match member:
            case Method():
                child = ElementTree.SubElement(element, "method", name=member.name)
                _add_arguments(child, member.in_signature, member.arguments, "in")
                _add_arguments(child, member.out_signature, (), "out")
            case Property():
                ElementTree.SubElement(
                    element, "property", name=member.name, type=member.signature, access="read"
                )
            case Signal():
                child = ElementTree.SubElement(element, "signal", name=member.name)
                _add_arguments(child, member.signature, member.arguments, None)
    return element


def _add_arguments(
    element: ElementTree.Element, signature: str, names: tuple[str, ...], direction: str | None
) -> None:
    for index, type_ in enumerate(types_of(signature)):
        argument = ElementTree.SubElement(element, "arg")
        if names:
            argument.set("name", names[index])
        argument.set("type", type_.signature)
        if direction is not None:
            argument.set("direction", direction)
