"""Real processes that write, and real compactors, killed at random: nothing acknowledged is lost, doubled or stale.

A bounded number with fixed seeds; ``make soak`` kills a thousand times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.write_kill import SCENARIOS, Scenario, run_scenario
from tests.support.write_process import fork_server
from tests.support.write_servers import SERVER_SCENARIOS, ServerScenario, run_server_scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_acknowledged_is_lost_or_doubled(scenario: Scenario, tmp_path: Path) -> None:
    seed = 20261121 + SCENARIOS.index(scenario)
    verdict = run_scenario(fork_server(), tmp_path, scenario, kills=4, seed=seed)
    assert verdict.problems == {}
    assert verdict.faults == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.found == verdict.acknowledged > 10


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SERVER_SCENARIOS[:2], ids=lambda scenario: scenario.name)
async def test_nothing_acknowledged_by_real_servers_is_lost_or_doubled(
    scenario: ServerScenario, tmp_path: Path
) -> None:
    verdict = await run_server_scenario(tmp_path, scenario, kills=2, seed=20261121)
    assert verdict.problems == {}
    assert verdict.faults == []
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.found == verdict.acknowledged > 10
