"""The pages on HTTP and on errors are held to the code."""

import re
from pathlib import Path

from service.encode import CONTENT_TYPES
from service.jobs import PAGE_ROWS
from service.requests import SqlRequest
from service.statement import Limits
from storage.errors import STATUS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_error_class_is_documented_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+Error)` \| (\d+)", (DOCS / "errors.md").read_text(), re.M)
    assert {name: int(status) for name, status in rows} == {cls.__name__: status for cls, status in STATUS.items()}


def test_every_member_of_a_request_and_every_format_is_documented() -> None:
    page = (DOCS / "http.md").read_text()
    for member in SqlRequest.__dataclass_fields__:
        assert f"| `{member}` |" in page
    for kind, content_type in CONTENT_TYPES.items():
        assert f"| `{kind}` | `{content_type.partition(';')[0]}` |" in page


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    page = (DOCS / "http.md").read_text()
    assert f"{PAGE_ROWS:,} rows" in page
    assert f"| {Limits().timeout_ms} |" in page
