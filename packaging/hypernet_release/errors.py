# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while building or installing an image."""

from common.errors import ERROR_PREFIX, AgentError


class BuildError(AgentError):
    """A step of the image build failed: the sentence names the step and what to do."""


class ImageUnfit(BuildError):
    """The image was built, but servers that run it could not update themselves again."""

    dbus_name = ERROR_PREFIX + "ImageUnfit"
    exit_status = 17


class InstallError(AgentError):
    """An image could not be put on a disk; the sentence names both."""


class ToolError(AgentError):
    """A program that we need is missing or failed.

    log: its command line and all that it wrote to standard error (bounded); empty if it did not run.
    """

    def __init__(self, sentence: str, log: str = "") -> None:
        super().__init__(sentence)
        self.log = log
