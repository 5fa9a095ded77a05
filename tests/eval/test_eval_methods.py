"""Methods: who sees whom, who comes when, what counts; rows that depend on nothing but problem, method and seed."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable

import pytest

from hogwild.core import events as ev
from hogwild.core.sampling import GREEDY
from hogwild.engine import Engine
from hogwild.errors import OptionError
from hogwild.eval.evaluation import judge
from hogwild.eval.methods import METHODS, find_methods
from hogwild.eval.options import EvalOptions, Item, Shard, items
from hogwild.eval.problem import Problem, Score
from hogwild.eval.rows import Row, row_from_line, row_to_line
from hogwild.eval.runner import Runner
from hogwild.eval.scoring.scorer import Scorer
from hogwild.eval.tasks import answer_tokens, load_problems
from hogwild.prompts import find_style
from tests.cli import scripted
from tests.eval.workbench import ALL, engine, results, rows, study, timeless, work
from tests.session.fakes import fake_engine
from tests.session.invariants import Watch

PROBLEM = Problem("p/0", "Two and two?", "4", "gsm8k")


def method(name: str, workers: int = 2, **how):
    return find_methods([name], [workers], find_style("hogwild"), **how)[0]


def plain(given):
    """The method for a model without a chat template."""
    style = dataclasses.replace(given.style, chat=False, user=f"<{given.style.user}>")
    return dataclasses.replace(given, style=style)


def run(
    name: str, say: Callable[[str], str], workers: int = 2, programs: bool = False, **options
) -> tuple[Row, list[ev.Event], list]:
    running, backend = fake_engine(say)
    taken = []
    given = {"budgets": (40, 400), "sampling": GREEDY, "max_step_tokens": 60, **options}
    runner = Runner(running, EvalOptions(**given), grade, lambda row, events: taken.append((row, events)))
    runner.work([Item(PROBLEM, plain(method(name, workers, programs=programs)), 0)])
    ((row, events),) = taken
    assert running.cache.pool.num_used == 0
    assert running.cache.pool.num_reserved == 0, "a reservation leaked"
    assert row_from_line(row_to_line(row)) == row
    return row, events, backend.views


def grade(problem: Problem, answer: str | None, text: str) -> Score:
    return Score(answer == problem.answer, answer, "compared")


def reciter(texts: dict[str, str]) -> Callable[[str], str]:
    """Each worker says its text after its header; whoever is asked for the final answer says 4."""

    def say(view: str) -> str:
        if (asked := view.rfind("final answer is \\boxed{")) > view.rfind("**"):
            return "4}"[len(view) - asked - 23]
        name = max(texts, key=lambda name: view.rfind(f"**{name}:**"))
        own = view[view.rfind(f"**{name}:**") + len(name) + 5 :]
        return texts[name][len(own)] if len(own) < len(texts[name]) else "EOS"

    return say


STAGED = {
    "Planner": " 1. Add.\n\nand more",
    "Solver 1": " Result: 3.\n\nand more",
    "Solver 2": " Result: 1.\n\nand more",
}


def test_fork_and_join_plans_then_solves_at_once_then_joins():
    joined = {**STAGED, "Joiner": " So \\boxed{4}.\n\n"}
    row, events, views = run("fork-join", reciter(joined))
    said = [(event.worker, event.text) for event in events if isinstance(event, ev.StepEnded)]
    assert said == [(0, " 1. Add.\n\n"), (1, " Result: 3.\n\n"), (2, " Result: 1.\n\n"), (3, " So \\boxed{4}.\n\n")]
    assert [event.worker for event in events if isinstance(event, ev.WorkerJoined)] == [0, 1, 2, 3]
    seen = [text for texts in views for text in texts]
    solver = next(text for text in seen if text.endswith("**Solver 1:** Result"))
    joiner = next(text for text in seen if text.endswith("**Joiner:** So"))
    assert "**Planner:** 1. Add.\n\n\n\n### One subtask, solved" in solver
    assert "Solver 2" not in solver.split("**Solver 1:**")[1]
    order = [joiner.index(f"**{name}:**") for name in joined]
    assert order == sorted(order)
    assert joiner.count("1. Add.") == 1
    assert [(budget.answer, budget.correct) for budget in row.budgets] == [("4", True)] * 2
    assert len(row.tokens) == 4
    lengths = [len(texts) for texts in (" 1. Add.\n\n", " Result: 3.\n\n", " So \\boxed{4}.\n\n")]
    assert row.passes == sum(lengths) + 3  # a pass after each stage stores its last tokens


def test_skeleton_ends_with_its_points_and_is_asked_for_the_answer():
    texts = {name.replace("Solver", "Writer"): text for name, text in STAGED.items()}
    row, events, _ = run("skeleton", reciter(texts))
    assert [event.worker for event in events if isinstance(event, ev.WorkerJoined)] == [0, 1, 2]
    assert [event.source for event in events if isinstance(event, ev.AnswerGiven)] == ["finisher"]
    assert row.reason == "workers_ended"
    assert row.budgets[-1].correct


def test_solvers_that_never_end_are_joined_after_half_of_the_passes():
    texts = {**STAGED, "Solver 1": "x" * 900, "Solver 2": "y" * 900, "Joiner": "z" * 900}
    row, events, _ = run("fork-join", reciter(texts), max_step_tokens=1000)
    joined = [event.pass_index for event in events if isinstance(event, ev.WorkerJoined)]
    assert joined[-1] == 201  # one pass stores the solvers' last tokens
    assert row.passes == 400


@pytest.mark.parametrize("end", ["EOS", "x"])
def test_a_planner_that_ends_or_never_ends_a_step_is_followed(end):
    texts = {**STAGED, "Planner": "no plan" if end == "EOS" else "x" * 500, "Joiner": " \\boxed{4}.\n\n"}
    row, events, _ = run("fork-join", reciter(texts))
    assert [event.worker for event in events if isinstance(event, ev.WorkerJoined)] == [0, 1, 2, 3]
    assert row.budgets[-1].correct


def test_a_vote_counts_workers_that_do_not_see_each_other():
    row, _, views = run("vote", lambda view: "The \\boxed{4}.\n\n"[(len(view) - view.rfind(">") - 1)], workers=3)
    assert row.budgets[0].correct
    length = len("The \\boxed{4}.\n\n")
    assert row.tokens == (length,) * 3
    assert row.budgets[0].passes == row.budgets[1].passes == length + 1  # the last one stores the last tokens
    assert all("The" not in view.rpartition(">")[2][3:] for view in views[-1])


def test_budgets_record_the_state_after_exactly_that_many_passes():
    row, _, _ = run("one", lambda view: "x" if "\\boxed{" not in view.rpartition(">")[2] else "4}"[view[-1] == "4"])
    assert [(budget.passes, budget.tokens, budget.answer) for budget in row.budgets] == [(40, 40, "4"), (400, 400, "4")]
    assert row.tokens == (400,)
    assert row.steps[0].kind == "unfinished"
    assert row.steps[0].first_pass == 1
    assert row.steps[0].last_pass == 400


PROGRAM = "def double(x):\n    return 2 * x"


def test_a_worker_ends_with_the_program_that_it_calls_final():
    draft = "A draft:\n\n```python\ndouble = 0\n```\nIt is wrong.\n\n"
    told = f"{draft}```python\n{PROGRAM}\n```\nThis is the final program.\n\n"
    say = lambda view: told[len(view) - view.rfind(">") - 1]  # noqa: E731
    row, events, _ = run("one", say, programs=True, max_step_tokens=300, finisher_tokens=0)
    given = [(event.source, event.answer) for event in events if isinstance(event, ev.AnswerGiven)]
    assert given == [("worker", PROGRAM)]
    assert [budget.answer for budget in row.budgets] == [None, PROGRAM]
    assert row.passes == len(told)


def test_a_program_is_asked_for_in_a_fence_and_goes_up_to_its_end():
    def say(view: str) -> str:
        _, asked, written = view.rpartition("The final program is:\n\n```python\n")
        return f"{PROGRAM}\n```\n"[len(written)] if asked else "x"

    row, _, views = run("one", say, programs=True, finisher_tokens=1024)
    assert [budget.answer for budget in row.budgets] == [PROGRAM] * 2
    assert row.tokens == (400,)
    assert not any("boxed" in text.rpartition(">")[2] for texts in views for text in texts)
    cut, _, _ = run("one", say, programs=True, finisher_tokens=20)
    assert cut.budgets[0].answer == PROGRAM[:20]


def test_a_program_counts_as_it_was_given_and_else_as_it_stands_in_the_text():
    problem = Problem("c/0", "Double.", "assert double(2) == 4", "code")
    with Scorer() as scorer:
        assert judge(scorer, problem, PROGRAM, "```python\ndouble = 0\n```").correct
        assert judge(scorer, problem, None, f"```python\n{PROGRAM}\n```").correct
        assert not judge(scorer, problem, "def double(x):\n    return x", f"```python\n{PROGRAM}\n```").correct


@pytest.mark.parametrize(
    ("task", "data", "tokens"), [("parallel:50", None, 150), ("parallel:1", None, 64), ("code", "made", 1024)]
)
def test_a_forced_answer_has_room_for_what_is_right(task, data, tokens, tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text(json.dumps({"problem": "Double.", "answer": "assert True\n" * 500}))
    problems = load_problems(task, data=data and str(path), count=1)
    assert tokens <= answer_tokens(task, problems) < 2 * tokens


def test_a_worker_whose_numbers_are_not_finite_fails_the_row():
    row, _, _ = run("one", lambda view: "NAN" if view.endswith("xxx") else "x")
    assert (row.status, row.budgets) == ("failed", ())
    assert "not finite" in row.reason


def test_rows_do_not_depend_on_order_batch_mates_or_seeds_of_others(tmp_path):
    names = [f"{name}{check}" for name in ALL for check in ("", "+check")]
    given = study(count=2, methods=names, seeds=(0, 1))
    work(tmp_path / "alone", given)
    alone = results(tmp_path / "alone")
    assert len(alone) == 2 * len(names) * 2
    shuffled = given.items(Shard())
    random.Random(3).shuffle(shuffled)
    taken: list[Row] = []
    runner = Runner(engine(), given.options, grade_parallel, lambda row, events: taken.append(row), concurrent=7)
    runner.work(shuffled)
    keep = ("passes", "tokens", "steps", "reason", "status")
    assert {row.key: {name: timeless(row)[name] for name in keep} for row in taken} == {
        key: {name: row[name] for name in keep} for key, row in alone.items()
    }
    assert len({tuple(row["tokens"]) for row in alone.values()}) > 20, "the rows hardly differ"


def grade_parallel(problem: Problem, answer: str | None, text: str) -> Score:
    return Score(False, answer, "not asked")


def test_a_pool_with_room_for_few_makes_the_others_wait_and_changes_nothing(tmp_path):
    given = study(count=3, seeds=(0,))
    work(tmp_path / "roomy", given, concurrent=9)
    tight = Engine(scripted.model(), cache_tokens=256, max_cache_tokens=12000)
    work(tmp_path / "tight", given, concurrent=9, engine=tight)
    assert results(tmp_path / "tight") == results(tmp_path / "roomy")
    assert tight.cache.pool.num_used == tight.cache.pool.num_reserved == 0


def test_a_prompt_that_does_not_fit_is_a_failed_row_and_the_rest_goes_on(tmp_path):
    given = study(count=2, seeds=(0,), methods=("one", "combined"))
    work(tmp_path, given, engine=engine(context_size=900))
    assert {(row.method, row.status) for row in rows(tmp_path)} == {("one", "done"), ("combined", "failed")}
    assert all("longer than the model's context" in row.reason for row in rows(tmp_path) if row.status == "failed")


def test_every_method_comes_once_for_each_number_of_workers():
    found = find_methods([*METHODS, "combined+check"], [2, 4], find_style("hogwild"))
    assert [(m.name, m.num_workers) for m in found if m.name in ("one", "combined+check")] == [
        ("one", 1), ("combined+check", 2), ("combined+check", 4),
    ]  # fmt: skip
    assert len(found) == 1 + 2 * (len(METHODS) - 1) + 2


@pytest.mark.parametrize("name", ["two", "one+", "+check", "combined+check+check"])
def test_an_unknown_method_is_refused(name):
    with pytest.raises(OptionError, match="there is no method"):
        find_methods([name], [2], find_style("hogwild"))


def test_a_check_without_a_question_is_refused():
    with pytest.raises(OptionError, match="has no check question"):
        find_methods(["combined+check"], [2], find_style("plain"))


def test_all_methods_meet_the_same_random_numbers_and_problems_different_ones():
    given = study(count=3, seeds=(0, 1))
    seeds = {}
    for item in items(given.problems, given.methods, given.seeds, Shard()):
        seeds.setdefault((item.problem.id, item.seed), set()).add(item.session_seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 6


def test_a_staged_session_keeps_every_invariant():
    """The accounts of `tests/session` hold after every pass, while workers are dismissed and join."""
    texts = {**STAGED, "Joiner": " \\boxed{4}.\n\n"}
    running, _ = fake_engine(reciter(texts))
    given = plain(method("fork-join"))
    options = EvalOptions(budgets=(40, 400), sampling=GREEDY, max_step_tokens=60)
    session = running.submit(PROBLEM.problem, options.session_options(Item(PROBLEM, given, 0)), given.style)
    watch, policy = Watch(running, session), given.policy(400)
    while not session.ended:
        policy.after_pass(session, watch.step())
    assert session.answer == "4"
