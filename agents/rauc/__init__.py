# SPDX-License-Identifier: Apache-2.0
"""RAUC's D-Bus interface in front of slot-manager, see README.md."""
