"""Mutants are those that are meant, each alone in its tree, and the trial tells a test that sees one from a test that does not."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from argparse import Namespace

import pytest

from tests.mutation import __main__
from tests.mutation.children import Died, in_child
from tests.mutation.equivalents import equivalents
from tests.mutation.mutants import Mutant, drawn, mutants_of, mutated_tree
from tests.mutation.reach import Reach
from tests.mutation.rooms import ROOMS, ROOT, module_of


def changes(statement: str) -> set[str]:
    """What the statements of a function may become."""
    lines = "\n".join(f"    {line}" for line in statement.splitlines())
    return {mutant.after for mutant in mutants_of("m", f"def f(a, b):\n{lines}\n")}


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("c = a + b", {"c = a - b"}),
        ("c = a * b", {"c = a + b", "c = a / b"}),
        ("c = a < b", {"c = a <= b", "c = a >= b"}),
        ("c = a is b", {"c = a is not b"}),
        ("c = 3", {"c = 4", "c = 2"}),
        ("c = 0.0", {"c = 1.0", "c = -1.0"}),
        ("c = 0.25", {"c = 1.25", "c = 0.5"}),
        ("c = True", {"c = False"}),
        ("c = not a", {"c = a"}),
        ("c = a and b", {"c = a or b", "c = a", "c = b"}),
        ("c = any(a)", {"c = all(a)"}),
        ("c = max(a, b)", {"c = min(a, b)"}),
        ("c = a.minimum(b)", {"c = a.maximum(b)"}),
        ("c = a[b:]", {"c = a[:]"}),
        ("c = a if b else f", {"c = a if True else f", "c = a if False else f"}),
        ("c = [d for d in a if b]", {"c = [d for d in a if True]"}),
        ("return a", {"return None"}),
        ("a.append(b)", {"pass"}),
        ("a.b = b", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("a = b", {"pass"}),
        ("c = b", set()),
        ("raise ValueError(f'{a + b}')", {"pass"}),
        ("assert a < b", set()),
        ("c = zip(a, b, strict=True)", set()),
        ("c: int = a", set()),
    ],
)
def test_each_kind_of_change(statement: str, wanted: set[str]) -> None:
    assert changes(statement) == wanted


def test_what_stands_in_a_block_is_changed_by_itself() -> None:
    assert changes("while a:\n    if b:\n        break") == {"if True:", "if False:", "continue"}


def test_every_mutant_is_one_change_of_its_own() -> None:
    path = next(path for path in ROOMS["geometry"].files() if path.name == "_window.py")
    source = path.read_text(encoding="utf-8")
    mutants = mutants_of(module_of(path), source)
    assert len({mutant.key for mutant in mutants}) == len(mutants)
    trees = {ast.dump(mutated_tree(mutant, source)) for mutant in mutants}
    assert len(trees) == len(mutants)
    assert ast.dump(ast.parse(source)) not in trees


def test_a_draw_depends_on_the_seed_and_hardly_on_what_else_there_is() -> None:
    mutants = mutants_of("m", "def f(a, b):\n    return a + b - 3 * a // b % 7\n")
    draw = drawn(mutants, 1)
    assert sorted(mutant.key for mutant in draw) == sorted(mutant.key for mutant in mutants)
    assert drawn(reversed(mutants), 1) == draw != drawn(mutants, 2)
    assert drawn(mutants[1:], 1) == [mutant for mutant in draw if mutant != mutants[0]]


def test_a_run_in_parts_tries_what_a_whole_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants = mutants_of("m", "def f(a, b):\n    return a + b - 3 * a // b % 7\n")
    monkeypatch.setattr(__main__, "equivalents", lambda: dict.fromkeys([drawn(mutants, 1)[2].key], "drawn third"))

    def chosen(first: int, count: int) -> tuple[list[tuple[int, Mutant]], list[Mutant]]:
        apart: list[Mutant] = []
        return list(__main__._chosen(mutants, Namespace(only="", seed=1, first=first, count=count), apart)), apart

    whole, apart = chosen(1, 5)
    assert [number for number, _ in whole] == [1, 2, 3, 4, 5]
    assert [mutant for _, mutant in whole] == [one for one in drawn(mutants, 1) if one not in apart][:5]
    for last in range(1, 5):
        (front, before), (behind, after) = chosen(1, last), chosen(last + 1, 5)
        assert (front + behind, before + after) == (whole, apart)


def test_what_runs_at_import_is_tried_on_all_tests_of_the_files_that_run_its_module() -> None:
    constant, inside, *_ = mutants_of("m", "A = 1\ndef f(a):\n    return a + A\n")[1:]
    assert (constant.at_import, inside.at_import) == (True, False)
    reach = Reach({"one.py::runs": 2.0, "one.py::looks": 1.0, "two.py::runs": 3.0, "three.py::else": 0.1}, {
        "m": {1: [""], 3: ["one.py::runs", "two.py::runs"]}})  # fmt: skip
    assert reach.tests(constant) == ["one.py::looks", "one.py::runs", "two.py::runs"]
    assert reach.tests(inside) == ["one.py::runs", "two.py::runs"]
    assert Reach(reach.seconds).tests(constant) == ["three.py::else", "one.py::looks", "one.py::runs", "two.py::runs"]


def test_equivalents_are_mutants_and_have_a_reason() -> None:
    keys = {
        mutant.key for room in ROOMS.values() for path in room.files() for mutant in mutants_of(module_of(path), path.read_text("utf-8"))
    }
    listed = equivalents()
    assert not set(listed) - keys, "no such mutant any more: take it from the list"
    assert all(len(reason.split()) > 3 for reason in listed.values())


def test_a_child_gives_its_answer_or_tells_why_not() -> None:
    assert in_child(lambda: [1, 2], 60) == [1, 2]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0, 60)
    with pytest.raises(Died, match="no answer within 1 s"):
        in_child(lambda: time.sleep(60), 1)


SCRIPT = """
import json
from tests.mutation import trial
from tests.mutation.children import warm_up
from tests.mutation.mutants import mutants_of
from tests.mutation.reach import by_pytest, reach_of
from tests.mutation.rooms import SOURCE, module_of

warm_up()
trial.START = 10.0
path = SOURCE / "refold/geometry/_window.py"
planted = next(mutant for mutant in mutants_of(module_of(path), path.read_text("utf-8")) if mutant.after == "return room * self.stride + 1")
verdicts = {}
for name in ("killed", "alive", "unreached", "timeout"):
    reach = reach_of(by_pytest([f"tests/mutation/planted.py::test_{name}"]))
    verdicts[name] = trial.tried(planted, reach).verdict
print(json.dumps(verdicts))
"""


def test_a_planted_mutant_is_killed_by_a_test_that_sees_it_alone() -> None:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    verdicts = json.loads(done.stdout.splitlines()[-1])
    assert verdicts == {name: name for name in ("killed", "alive", "unreached", "timeout")}
