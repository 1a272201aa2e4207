# SPDX-License-Identifier: Apache-2.0
"""The release tools: build, sign and install system images (`hypernet-image`)."""
