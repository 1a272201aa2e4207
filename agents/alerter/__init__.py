# SPDX-License-Identifier: Apache-2.0
"""Tells people: mail and webhooks for what agents and failed units report."""
