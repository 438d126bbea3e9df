"""The error tree and what hangs on it."""

import pickle
import re

import pytest

from storage import errors
from storage.errors import STATUS, CorruptError, FirnlineError, InternalError, InvalidError, from_wire


def tree(cls: type[FirnlineError] = FirnlineError) -> list[type[FirnlineError]]:
    below = [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
    return [*below, *(leaf for sub in below for leaf in tree(sub))]


def test_every_class_of_the_tree_has_a_status_and_is_drawn_and_exported() -> None:
    assert set(tree()) == set(STATUS)
    drawn = dict(re.findall(r"(\w+Error) .*?(\d{3})$", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(status) for name, status in drawn.items()} == {cls.__name__: s for cls, s in STATUS.items()}
    assert {cls.__name__ for cls in STATUS} | {"FirnlineError", "STATUS", "from_wire"} == set(errors.__all__)


@pytest.mark.parametrize("cls", STATUS)
def test_an_error_survives_pickle_and_the_wire(cls: type[FirnlineError]) -> None:
    error = cls("what went wrong", file="file:///a b", line=3, nothing=None)
    for again in (pickle.loads(pickle.dumps(error)), from_wire(error.to_wire())):
        assert type(again) is cls
        assert (again.message, again.facts) == ("what went wrong", {"file": "file:///a b", "line": 3})
        assert str(again) == "what went wrong file=file:///a b line=3"


def test_a_class_beside_the_tree_goes_by_the_nearest_one_in_it() -> None:
    class OddError(CorruptError):
        pass

    assert type(from_wire(OddError("x").to_wire())) is CorruptError


@pytest.mark.parametrize(
    "wire", [{}, {"error": "FirnlineError"}, {"error": "ValueError", "message": "x"}, {"facts": None}]
)
def test_an_unknown_wire_form_is_internal(wire: dict[str, object]) -> None:
    assert type(from_wire(wire)) is InternalError


def test_a_message_may_hold_anything() -> None:
    assert str(InvalidError("50% {of} it", value="{}%s")) == "50% {of} it value={}%s"
