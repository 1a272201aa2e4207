# SPDX-License-Identifier: Apache-2.0
from tests.fakes.private_bus import private_bus, private_bus_daemon

__all__ = ["private_bus", "private_bus_daemon"]
