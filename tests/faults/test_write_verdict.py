"""The verdict over a killed lake counts what is lost and doubled: notes of a load, and tables that do not agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.write_load import ROOM, TABLES, Notes, Story, Table, load_history
from tests.support.write_verdict import Verdict, judge

pytestmark = pytest.mark.anyio

PLAIN, KEYED = TABLES[0], TABLES[1]


@dataclass
class Held:
    """A target whose tables hold what the test says."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    async def sql(self, sql: str, key: str | None = None) -> list[tuple[Any, ...]]:
        return self.rows[sql.rpartition(" ")[2]]

    async def ingest(self, table: Table, rows: Sequence[dict[str, Any]], key: str) -> None:
        raise AssertionError("nothing is written here")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Two appends acknowledged and one unknown; a key written and incremented, and an increment unknown."""
    notes = Notes(tmp_path / "notes")
    notes.write("run", 1)
    for at, (name, kind, table, key, value, told) in enumerate(
        [
            ("a1", "append", PLAIN.name, 1, ROOM + 1, True),
            ("a2", "append", PLAIN.name, 1, ROOM + 2, True),
            ("a3", "append", PLAIN.name, 1, ROOM + 3, False),
            ("k1", "write", KEYED.name, ROOM, 10, True),
            ("k2", "increment", KEYED.name, ROOM, None, True),
            ("k3", "increment", KEYED.name, ROOM, None, False),
        ]
    ):
        notes.write("ask", name, kind, table, key, value, float(at))
        if told:
            notes.write("told", name, "ok", None, at + 0.5)
    with (tmp_path / "notes").open("ab") as file:
        file.write(b'["told", "a3", "o')
    return load_history(tmp_path / "notes")


async def verdict_of(story: Story, ids: list[int], keyed: list[tuple[int, int]]) -> Verdict:
    held = Held({PLAIN.name: [(ROOM + each, "row") for each in ids], KEYED.name: list(keyed)})
    return await judge(story, held, [PLAIN, KEYED])


@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 3]])
@pytest.mark.parametrize("value", [11, 12])
async def test_what_was_unknown_may_have_happened_or_not(story: Story, ids: list[int], value: int) -> None:
    verdict = await verdict_of(story, ids, [(ROOM, value)])
    assert verdict.good
    assert (verdict.acknowledged, verdict.found, set(story.pending)) == (4, 4, {"a3", "k3"})


async def test_a_lost_row_is_counted(story: Story) -> None:
    verdict = await verdict_of(story, [1], [(ROOM, 11)])
    assert (verdict.acknowledged, verdict.found, verdict.lost, verdict.good) == (4, 3, 1, False)


async def test_a_doubled_row_is_counted(story: Story) -> None:
    assert (await verdict_of(story, [1, 2, 2], [(ROOM, 11)])).doubled == 1
    assert (await verdict_of(story, [1, 2], [(ROOM, 11), (ROOM, 11)])).doubled == 1


@pytest.mark.parametrize("keyed", [[], [(ROOM, 10)], [(ROOM, 13)]])
async def test_a_lost_or_doubled_update_is_counted(story: Story, keyed: list[tuple[int, int]]) -> None:
    verdict = await verdict_of(story, [1, 2], keyed)
    assert verdict.lost == 1
    assert not verdict.good


async def test_a_row_that_nobody_wrote_is_wrong(story: Story) -> None:
    assert [fault.kind for fault in (await verdict_of(story, [1, 2, 9], [(ROOM, 11)])).faults] == ["phantom"]
