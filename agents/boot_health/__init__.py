# SPDX-License-Identifier: Apache-2.0
"""Runs the health checks that decide whether this boot is good."""
