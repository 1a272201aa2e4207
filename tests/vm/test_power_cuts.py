# SPDX-License-Identifier: Apache-2.0
"""Power cuts while an empty slot is written: at random moments of an install, one after the other."""

import random

from tests.vm.power import CUTS, Chain
from tests.vm.server import Server


def test_after_each_power_cut_a_verified_healthy_slot_comes_up_by_itself(server: Server) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chain = Chain(server, random.Random(seed))
    chain.begin()

    for number in range(CUTS):
        chain.forget()
        chain.cut(number)

    chain.finish()
