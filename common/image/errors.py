# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an image file, besides its signature (common.trust) and its manifest
(common.manifest).
"""

from __future__ import annotations

from common.errors import ERROR_PREFIX, AgentError


class NotAnImage(AgentError):
    """The file is not a Hypernet system image."""

    dbus_name = ERROR_PREFIX + "NotAnImage"
    exit_status = 17


class Truncated(AgentError):
    """The file ends before its partition table or its manifest says."""

    dbus_name = ERROR_PREFIX + "Truncated"
    exit_status = 16


class ChecksumMismatch(AgentError):
    """The image is not the one that its manifest or .sha256 file (or the verification just before)
    describes.
    """

    dbus_name = ERROR_PREFIX + "ChecksumMismatch"
    exit_status = 15


class NoSpace(AgentError):
    """The image does not fit the slot, the ESP, the record's file system or the spool folder."""

    dbus_name = ERROR_PREFIX + "NoSpace"
    exit_status = 18


class DownloadFailed(AgentError):
    """The network, or the server, did not give what was asked for."""

    dbus_name = ERROR_PREFIX + "DownloadFailed"
    exit_status = 26


class NoSuchFile(DownloadFailed):
    """The server has no file of this name."""


class WrongProduct(AgentError):
    """The image is a system image of something else."""

    dbus_name = ERROR_PREFIX + "WrongProduct"
    exit_status = 11


def misbuilt(name: str, why: str) -> NotAnImage:
    """The error for an image whose content is not what it has to be."""
    return NotAnImage(
        f"{name} is damaged or was not built properly: {why}; get another image from the vendor."
    )
