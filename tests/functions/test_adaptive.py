"""What repeated statements learn about filtering while they decode."""

from functions.adaptive import TRY_AGAIN_EVERY, LateMaterialization


def test_a_statement_runs_plainly_first_and_tries_the_other_way_second() -> None:
    late = LateMaterialization()
    assert not late.choose("q")
    late.learn("q", False, 100)
    assert late.choose("q")


def test_a_quick_statement_never_tries() -> None:
    late = LateMaterialization()
    for _ in range(3):
        late.learn("q", False, 5)
        assert not late.choose("q")


def test_the_cheaper_way_is_kept() -> None:
    late = LateMaterialization()
    late.learn("q", False, 100)
    late.learn("q", True, 60)
    assert late.choose("q")
    late.learn("p", False, 100)
    late.learn("p", True, 140)
    assert not late.choose("p")


def test_a_gain_within_the_noise_is_not_worth_it() -> None:
    late = LateMaterialization()
    late.learn("q", False, 100)
    late.learn("q", True, 98)
    assert not late.choose("q")


def test_the_other_way_is_tried_again_now_and_then() -> None:
    late = LateMaterialization()
    late.learn("q", False, 100)
    late.learn("q", True, 140)
    choices = []
    for _ in range(TRY_AGAIN_EVERY):
        choice = late.choose("q")
        choices.append(choice)
        late.learn("q", choice, 140 if choice else 100)
    assert choices.count(True) == 1


def test_only_so_many_statements_are_remembered() -> None:
    late = LateMaterialization(entries_max=2)
    for name in ("a", "b", "c"):
        late.learn(name, False, 100)
    assert not late.choose("a")
    assert late.choose("c")
