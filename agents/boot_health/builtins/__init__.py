# SPDX-License-Identifier: Apache-2.0
"""The checks that need no command: one module for each."""
