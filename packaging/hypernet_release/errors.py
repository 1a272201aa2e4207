# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while building or installing an image, one class a case."""

from common.errors import AgentError


class BuildError(AgentError):
    """A step of the image build failed: the sentence names the step and what to do."""

    dbus_name = "io.hypernet.Error.BuildFailed"
    exit_status = 1


class InstallError(AgentError):
    """An image could not be put on a disk; the sentence names both."""

    dbus_name = "io.hypernet.Error.InstallFailed"
    exit_status = 1
