# SPDX-License-Identifier: Apache-2.0
"""hypernet-admin: the administrator's command. It speaks D-Bus with the agents and does nothing else."""

VERSION = "0.1.0"
"""Version of the Hypernet agents; pyproject.toml and the Debian changelog say the same."""
