"""The cap in GPU-equivalents over whole GPUs and slices together, exact, and the same by REST and by the form."""

from __future__ import annotations

import json
from fractions import Fraction

from ds01_spawner.core.errors import Reason
from tests.fakes.fake_inventory import SEVEN_SLICES, full_gpu
from tests.hub.hub_in_memory import HubInMemory

LIMITS = {"version": 1, "defaults": {"max_mig_instances": None, "max_gpu_equivalents": "10/7", "memory": "1g"}}


async def test_a_mix_up_to_the_exact_cap_and_nothing_over_it(hub: HubInMemory) -> None:
    """A whole GPU and 3/7 are 10/7 and fit exactly; one more slice is refused with the sum, and changes nothing."""
    hub.gpus.gpus = (SEVEN_SLICES, full_gpu(1))
    hub.limits_file.write_text(json.dumps(LIMITS))
    assert (await hub.spawn("ana", {"gpu": "full"}, "whole")).status == 201
    assert (await hub.spawn("ana", {"gpu": "1g", "count": 3}, "slices")).status == 201
    assert sum(lease.gpueq for lease in await hub.leases()) == Fraction(10, 7)

    by_rest = await hub.spawn("ana", {"gpu": "1g"}, "more")
    assert by_rest.reason == Reason.GPU_EQUIVALENTS
    assert "11/7" in by_rest.message and "10/7" in by_rest.message
    async with hub.browser("ana") as browser:
        by_form = await browser.ask("POST", "spawn/ana", environment="base", gpu="1g", count="1")
    assert by_form.reason == Reason.GPU_EQUIVALENTS
    assert "11/7" in by_form.text
    assert sum(lease.gpueq for lease in await hub.leases()) == Fraction(10, 7)
    assert (await hub.spawn("ben", {"gpu": "1g"})).status == 201, "another user has a cap of his own"
