# SPDX-License-Identifier: Apache-2.0
"""Everything that slot-manager refuses or fails with; the errors of an image file itself are
common.image's, those of its signature common.trust's and common.manifest's.
"""

from __future__ import annotations

from common.errors import ERROR_PREFIX, AgentError
from common.image.errors import ChecksumMismatch, NoSpace, NotAnImage, Truncated, WrongProduct

__all__ = [
    "BelowFloor",
    "ChecksumMismatch",
    "Denied",
    "Downgrade",
    "ImageUnfit",
    "LoaderError",
    "ManifestExpired",
    "NeedsSteppingStone",
    "NoManifest",
    "NoSpace",
    "NoSuchSlot",
    "NotAnImage",
    "OtherSlotNotGood",
    "PreUpdateFailed",
    "ReadBackMismatch",
    "SameVersion",
    "SlotBooted",
    "TopologyError",
    "Truncated",
    "WrongArchitecture",
    "WrongChannel",
    "WrongProduct",
    "WrongState",
]


class ImageUnfit(AgentError):
    """The image is genuine, but a machine that booted it could not update or save itself again."""

    dbus_name = ERROR_PREFIX + "ImageUnfit"
    exit_status = 17


class ReadBackMismatch(AgentError):
    """What was read back from the disk is not what was written."""

    dbus_name = ERROR_PREFIX + "ReadBackMismatch"
    exit_status = 19


class PreUpdateFailed(AgentError):
    """A unit of hypernet-pre-update.target failed, so nothing was written."""

    dbus_name = ERROR_PREFIX + "PreUpdateFailed"
    exit_status = 25


class WrongArchitecture(AgentError):
    """The release is for machines of another architecture."""

    dbus_name = ERROR_PREFIX + "WrongArchitecture"
    exit_status = 11


class WrongChannel(AgentError):
    """The release belongs to a channel that this machine does not follow."""

    dbus_name = ERROR_PREFIX + "WrongChannel"
    exit_status = 11


class ManifestExpired(AgentError):
    """The vendor vouched for the release only up to a moment that has passed."""

    dbus_name = ERROR_PREFIX + "ManifestExpired"
    exit_status = 14


class NoManifest(AgentError):
    """The machine takes only releases with a signed manifest, and this one has none."""

    dbus_name = ERROR_PREFIX + "NoManifest"
    exit_status = 11


class SameVersion(AgentError):
    """The running system is this version already: there is nothing to do."""

    dbus_name = ERROR_PREFIX + "SameVersion"
    exit_status = 22


class Denied(AgentError):
    """The release failed on this machine before."""

    dbus_name = ERROR_PREFIX + "Denied"
    exit_status = 11


class BelowFloor(AgentError):
    """The release is older than what this machine may ever go back to."""

    dbus_name = ERROR_PREFIX + "BelowFloor"
    exit_status = 11


class Downgrade(AgentError):
    """The image is older than the running system."""

    dbus_name = ERROR_PREFIX + "Downgrade"
    exit_status = 11


class NeedsSteppingStone(AgentError):
    """The running version is too old to be updated to this release in one step."""

    dbus_name = ERROR_PREFIX + "NeedsSteppingStone"
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


class WrongState(AgentError):
    """The slot is not in a state in which this can be done."""

    dbus_name = ERROR_PREFIX + "WrongState"
    exit_status = 11


class TopologyError(AgentError):
    """Disk, partitions or ESP are not laid out as this agent needs them."""


class LoaderError(AgentError):
    """A boot entry could not be changed, or did not read back as written."""
