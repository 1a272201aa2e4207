# SPDX-License-Identifier: Apache-2.0
"""Power cuts while an install goes on where the last power cut left it, one after the other."""

import random

from tests.vm.power import CUTS, Chain
from tests.vm.server import Server

MIB = 1 << 20


def test_the_install_goes_on_where_the_power_cut_left_it_and_ends_well(server: Server) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chain = Chain(server, random.Random(seed))
    chain.begin()

    for number in range(CUTS - 1):
        chain.cut(number)
    chain.forget()
    chain.cut(CUTS - 1, after_sec=0.6 * chain.duration_sec)
    entry = chain.finish()

    assert int(entry["BYTES_SKIPPED"]) >= MIB
    assert int(entry["BYTES_SKIPPED"]) + int(entry["BYTES_FETCHED"]) <= int(entry["BYTES_TOTAL"])
