# SPDX-License-Identifier: Apache-2.0
"""Everything that slot-manager refuses or fails with, besides the signature errors of common.trust."""

from __future__ import annotations

from common.errors import ERROR_PREFIX, AgentError


class NotAnImage(AgentError):
    """The file is not a Hypernet system image."""

    dbus_name = ERROR_PREFIX + "NotAnImage"
    exit_status = 17


class Truncated(AgentError):
    """The file ends before its partition table says."""

    dbus_name = ERROR_PREFIX + "Truncated"
    exit_status = 16


class NoSpace(AgentError):
    """The image does not fit the slot, the ESP or the spool folder."""

    dbus_name = ERROR_PREFIX + "NoSpace"
    exit_status = 18


class ChecksumMismatch(AgentError):
    """The image is not the one that its .sha256 file (or the verification just before) describes."""

    dbus_name = ERROR_PREFIX + "ChecksumMismatch"
    exit_status = 15


class ReadBackMismatch(AgentError):
    """What was read back from the disk is not what was written."""

    dbus_name = ERROR_PREFIX + "ReadBackMismatch"
    exit_status = 19


class WrongProduct(AgentError):
    """The image is a system image of something else."""

    dbus_name = ERROR_PREFIX + "WrongProduct"
    exit_status = 11


class SameVersion(AgentError):
    """The running system is this version already."""

    dbus_name = ERROR_PREFIX + "SameVersion"
    exit_status = 11


class Downgrade(AgentError):
    """The image is older than the running system."""

    dbus_name = ERROR_PREFIX + "Downgrade"
    exit_status = 11


class OtherSlotNotGood(AgentError):
    """The step would leave the machine without a slot that is known to be good."""

    dbus_name = ERROR_PREFIX + "OtherSlotNotGood"
    exit_status = 11


class NoSuchSlot(AgentError):
    """There is no such slot, or nothing in it."""

    dbus_name = ERROR_PREFIX + "NoSuchSlot"
    exit_status = 11


class SlotBooted(AgentError):
    """The step would write to the slot that is running, or to one that is in use."""

    dbus_name = ERROR_PREFIX + "SlotBooted"
    exit_status = 11


class TopologyError(AgentError):
    """Disk, partitions or ESP are not laid out as this agent needs them."""


class LoaderError(AgentError):
    """A boot entry could not be changed, or did not read back as written."""
