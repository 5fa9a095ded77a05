"""Sessions over a model without numbers: what each worker sees, pass by pass, and how everything ends."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import CONTROL, EOS, STYLE, fake_engine
from invariants import Watch

from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS, Layout, others
from hogwild.core.options import SessionOptions
from hogwild.core.sampling import GREEDY, SamplingParams
from hogwild.core.worker import Uniforms
from hogwild.errors import LayoutError, OptionError, PoolExhausted, PromptError

SENTENCE = "ab.\n\n"


def reciter(text: str, end: str = "EOS"):
    """Every worker writes `text` after its header, step after step, for ever."""

    def say(view: str) -> str:
        own = view[view.rfind(">") + 1 :]
        return text[len(own)] if len(own) < len(text) else end

    return say


def start(say, problem="p", style=STYLE, context_size=100_000, **options):
    engine, backend = fake_engine(say, context_size)
    options.setdefault("sampling", GREEDY)
    options.setdefault("max_passes", 60)
    layout = options.pop("layout", "combined")
    layout = LAYOUTS[layout] if isinstance(layout, str) else layout
    session = engine.submit(problem, SessionOptions(layout=layout, **options), style)
    return Watch(engine, session), backend


def views(backend, passes: int):
    """What the sampled rows saw in the last `passes` passes."""
    return backend.views[-passes:]


def test_combined_views_hold_the_others_tokens_of_the_same_pass():
    watch, backend = start(reciter("abcdefgh" * 10), num_workers=2)
    while watch.session.pass_index < 3:
        watch.step()
    assert backend.views[-1] == ["Q:p;[others]<B1>ab|[own]<A1>ab", "Q:p;[others]<A1>ab|[own]<B1>ab"]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", ["Q:p;<B1>ab|<C1>ab|<A1>ab", "Q:p;<A1>ab|<C1>ab|<B1>ab", "Q:p;<A1>ab|<B1>ab|<C1>ab"]),
        ("interleaved", ["Q:p;<A1>ab", "Q:p;<B1>ab", "Q:p;<C1>ab"]),
        ("independent", ["Q:p;<A1>ab", "Q:p;<B1>ab", "Q:p;<C1>ab"]),
        (
            "combined",
            [
                "Q:p;[others]<B1>ab|<C1>ab|[own]<A1>ab",
                "Q:p;[others]<A1>ab|<C1>ab|[own]<B1>ab",
                "Q:p;[others]<A1>ab|<B1>ab|[own]<C1>ab",
            ],
        ),
    ],
)
def test_views_of_three_workers(layout, expected):
    watch, backend = start(reciter("abcdefgh" * 10), num_workers=3, layout=layout)
    while watch.session.pass_index < 3:
        watch.step()
    assert backend.views[-1] == expected


def test_a_step_is_published_with_its_last_token_and_no_pass_is_lost():
    watch, backend = start(reciter(SENTENCE, end="x"), num_workers=2)
    while watch.session.pass_index < 5:
        watch.step()
    assert len(watch.of(ev.StepEnded)) == 2
    assert not watch.of(ev.StepPublished)
    watch.step()  # stores the last tokens in the old steps, and the new headers, in one pass
    assert backend.views[-1] == [
        "Q:p;<A1>ab.\n\n<B1>ab.\n\n[others]<B2>|[own]<A2>",
        "Q:p;<A1>ab.\n\n<B1>ab.\n\n[others]<A2>|[own]<B2>",
    ]
    published = watch.of(ev.StepPublished)
    assert [(event.worker, event.step, event.num_tokens) for event in published] == [(0, 1, 9), (1, 1, 9)]
    assert watch.of(ev.TokenWritten)[-1].pass_index == 6, "the pass that published also sampled"


@pytest.mark.parametrize("step_order", ["with_step", "next_step"])
def test_steps_are_stored_where_they_are_published(step_order):
    watch, _ = start(reciter(SENTENCE, end="x"), num_workers=1, step_order=step_order, max_passes=40)
    while len(watch.of(ev.StepPublished)) < 5:
        watch.step()
    assert watch.session.blocks.common.num_runs == 1, "a lone worker's steps go on where the last one ended"


def test_the_queries_for_a_step_depend_on_what_others_published_meanwhile():
    """Steps of all workers end in the same pass: the first one's stand where they were expected."""
    watch, _ = start(reciter(SENTENCE, end="x"), num_workers=3, max_passes=60)
    while len(watch.of(ev.StepPublished)) < 12:
        watch.step()
    common, size = watch.session.blocks.common, watch.of(ev.StepPublished)[0].num_tokens
    shifts = common.run_positions - common.run_starts
    assert len(common.run_starts) == 12, "the first worker's first step goes on behind the prompt"
    assert set(shifts.tolist()) == {0, -size, -2 * size}


def test_reference_order_moves_the_last_token_to_the_next_step():
    watch, backend = start(reciter(SENTENCE, end="x"), num_workers=2, step_order="next_step")
    while watch.session.pass_index < 6:
        watch.engine.step()
    assert backend.views[-1][0] == "Q:p;<A1>ab.\n<B1>ab.\n[others]\n<B2>|[own]\n<A2>"


def test_interleaved_sees_a_step_only_once_it_is_finished():
    turns = {"A": "a.\n\n", "B": "bbbbbbbbbbbb.\n\n"}

    def say(view: str) -> str:
        header, own = view[view.rfind("<") + 1], view[view.rfind(">") + 1 :]
        return turns[header][len(own)] if len(own) < len(turns[header]) else "x"

    watch, backend = start(say, num_workers=2, layout="interleaved")
    while watch.session.pass_index < 6:
        watch.step()
    assert [view[1] for view in backend.views[-6:]][-2:] == ["Q:p;<A1>a.\n\n<B1>bbbb", "Q:p;<A1>a.\n\n<B1>bbbbb"]


def test_one_worker_is_plain_decoding():
    watch, backend = start(reciter("abcdefghijklmnopqrstuvwxyz"), num_workers=1, layout="independent", max_passes=20)
    watch.run()
    assert backend.views[5][0] == "Q:p;<A1>abcd"


def test_a_style_without_headers_starts_from_the_prompt_itself():
    plain = STYLE.__class__(name="bare", version=1, chat=False, user="{problem}", texts=STYLE.texts)
    watch, backend = start(lambda view: "x", problem="hello", style=plain, num_workers=1, layout="independent")
    while watch.session.pass_index < 2:
        watch.step()
    assert backend.views[-2:] == [["hello"], ["hellox"]]


def test_bare_style_with_publishing_samples_from_the_closing_row():
    plain = STYLE.__class__(name="bare", version=1, chat=False, user="{problem}>", texts={**STYLE.texts})
    text = "a.\n\n"

    def say(view: str) -> str:
        own = view[view.rfind(">") + 1 :].replace("[others]", "").replace("[own]", "")
        return text[len(own) % len(text)]

    watch, _ = start(say, style=plain, num_workers=1, max_passes=20, finisher_tokens=0)
    watch.run()
    assert [event.step for event in watch.of(ev.StepPublished)][:3] == [1, 2, 3]


def test_the_step_limit_ends_a_step_by_force():
    watch, _ = start(lambda view: "x", num_workers=2, max_step_tokens=7, max_passes=30)
    watch.run()
    ended = watch.of(ev.StepEnded)
    assert ended
    assert all(event.reason == "limit" and event.text == "x" * 7 for event in ended)
    assert all(event.num_tokens == 4 + 7 + 2 for event in watch.of(ev.StepPublished))


def test_the_check_comes_after_that_many_tokens_at_a_new_step():
    watch, backend = start(reciter(SENTENCE, end="x"), num_workers=2, check_every=7, max_passes=40)
    watch.run()
    checks = watch.of(ev.CheckAsked)
    assert checks
    assert any("<A2>same?" in view or "<B2>same?" in view for views in backend.views for view in views)
    assert (checks[0].worker, checks[0].step) == (0, 2)


@pytest.mark.parametrize(("policy", "answer"), [("first", "2"), ("all", "3"), ("vote", "3")])
def test_finish_policies(policy, answer):
    lines = {"A": "aa\\boxed{3}.\n\n", "B": "\\boxed{2}.\n\n", "C": "aaaa\\boxed{3}.\n\n"}

    def say(view: str) -> str:
        name, own = view[view.rfind("<") + 1], view[view.rfind(">") + 1 :]
        return lines[name][len(own)]

    watch, _ = start(say, num_workers=3, finish=policy)
    watch.run()
    assert watch.session.answer == answer
    assert watch.session.ended == "answer"
    assert [event.worker for event in watch.of(ev.WorkerEnded)] == ([1] if policy == "first" else [1, 0, 2])


def test_an_answer_is_never_taken_from_the_prompt_or_a_header():
    watch, _ = start(lambda view: "x", problem="write \\boxed{9}.", num_workers=1, finisher_tokens=0)
    watch.run()
    assert watch.session.answer is None
    assert watch.session.ended == "max_passes"


def test_budgets_record_the_state_and_the_finisher_reads_everything_once():
    def say(view: str) -> str:
        if "ANSWER{" in view:
            return "42}"[len(view) - view.rfind("ANSWER{") - len("ANSWER{")]
        return reciter(SENTENCE, end="x")(view)

    watch, backend = start(say, num_workers=2, budgets=(3, 8), max_passes=12)
    watch.run()
    budgets = watch.of(ev.BudgetReached)
    assert [(event.budget, event.answer, event.num_sampled) for event in budgets] == [
        (3, "42", (3, 3)),
        (8, "42", (8, 8)),
        (12, "42", (12, 12)),
    ]
    finisher_views = [view for views in backend.views for view in views if view.endswith("ANSWER{")]
    assert finisher_views[0] == "Q:p;<A1>ab.<B1>ab.ANSWER{"
    assert finisher_views[1] == "Q:p;<A1>ab.\n\n<B1>ab.\n\n<A2>ab.<B2>ab.ANSWER{"
    assert watch.session.pass_index == 12, "the finisher's passes do not count"


@pytest.mark.parametrize("step_order", ["with_step", "next_step"])
def test_a_worker_that_is_dismissed_changes_nothing_of_what_the_finisher_reads(step_order):
    watch, backend = start(
        lambda view: "z" if "ANSWER" in view else "x", num_workers=2, budgets=(3,), max_passes=6, step_order=step_order
    )
    while not any(view.endswith("ANSWER{") for views in backend.views[-1:] for view in views):
        watch.step()
    watch.session.dismiss(watch.session.workers[1])
    watch.step()
    asked, answering = (next(view for view in views if "ANSWER" in view) for views in backend.views[-2:])
    assert answering == asked + "z"


def test_short_steps_reserve_little_more_than_their_tokens():
    watch, _ = start(reciter(SENTENCE, end="x"), num_workers=2, max_tokens=700, max_passes=2000, finisher_tokens=0)
    share = watch.session._pages
    assert share.count * 16 < 1.5 * 2 * 700
    most = 0
    while not watch.session.ended:
        most = max(most, share.num_used)
        watch.step()
    assert len(watch.of(ev.StepPublished)) > 100
    assert most * 16 > 2 * 600


def test_budgets_do_not_disturb_the_run():
    def say(view: str) -> str:
        return "}" if "ANSWER{" in view else reciter(SENTENCE, end="x")(view)

    plain, _ = start(say, num_workers=3, max_passes=25, finisher_tokens=0)
    budgeted, _ = start(say, num_workers=3, max_passes=25, budgets=tuple(range(1, 25)))
    tokens = [[e for e in w.run() if isinstance(e, ev.TokenWritten)] for w in (plain, budgeted)]
    assert tokens[0] == tokens[1]


def test_independent_workers_vote_through_their_own_finishers():
    def say(view: str) -> str:
        if "ANSWER{" in view:
            assert not ("<A1>" in view and "<B1>" in view), "a worker's finisher must not read the others"
            return ("7}" if "<B1>" not in view else "8}")[len(view) - view.rfind("{") - 1]
        return "x"

    watch, _ = start(say, num_workers=3, layout="independent", finish="vote", max_passes=5)
    watch.run()
    assert watch.session.answer == "7"
    assert sorted(e.worker for e in watch.of(ev.AnswerGiven)) == [0, 1, 2]


def test_eos_ends_a_worker_and_publishes_what_it_said():
    def say(view: str) -> str:
        own = view[view.rfind(">") + 1 :]
        if view[view.rfind("<") + 1] == "B":
            return "b."[len(own)] if len(own) < 2 else "EOS"
        return "x"

    watch, backend = start(say, num_workers=2, max_passes=10, finisher_tokens=0)
    watch.run()
    assert [(e.worker, e.reason) for e in watch.of(ev.WorkerEnded)] == [(1, "eos")]
    assert backend.views[-1] == ["Q:p;<B1>b.[others][own]<A1>xxxxxxxxx"]


def test_control_tokens_are_banned_within_a_step():
    watch, backend = start(reciter("abc.\n\n", end="x"), num_workers=1, max_passes=8, finisher_tokens=0)
    watch.run()
    by_pass = [requests[0].banned_ids for requests in backend.requests if requests]
    assert EOS not in by_pass[0], "before the step has begun it may end"
    assert EOS in by_pass[1]
    assert EOS in by_pass[3]
    assert EOS not in by_pass[4], "after a sentence it may end"
    assert all(CONTROL in banned for banned in by_pass)


def test_max_tokens_ends_each_worker():
    watch, _ = start(reciter(SENTENCE, end="x"), num_workers=2, max_tokens=25, max_passes=500, finisher_tokens=0)
    watch.run()
    assert [event.reason for event in watch.of(ev.WorkerEnded)] == ["max_tokens"] * 2
    assert watch.session.ended == "workers_ended"


def test_a_view_longer_than_the_context_ends_that_worker_only():
    special = Layout("short", view=("common", "own"), special_views={0: ("common", "worker:1", "own")})
    watch, backend = start(lambda view: "x", num_workers=2, layout=special, context_size=40, max_passes=200)
    watch.run()
    assert [(e.worker, e.reason) for e in watch.of(ev.WorkerEnded)] == [(0, "length"), (1, "length")]
    assert max(len(view) for views in backend.views for view in views) <= 40


@pytest.mark.parametrize("context_size", range(10, 20))
def test_without_a_header_the_last_step_that_fits_ends_a_worker(context_size):
    """A step whose last token has no room is published without it; nothing is left that its worker could feed."""
    bare = STYLE.__class__(name="bare", version=1, chat=False, user="{problem}>", texts=STYLE.texts)

    def say(view: str) -> str:
        return SENTENCE[(len(view) - len("p>")) % len(SENTENCE)]

    watch, _ = start(say, style=bare, layout="interleaved", context_size=context_size, finisher_tokens=0)
    watch.run()
    assert [event.reason for event in watch.of(ev.WorkerEnded)] == ["length", "length"]


def test_a_worker_with_nan_is_stopped_and_the_others_go_on_as_if_it_had_left():
    bad_pass = 6

    def say(view: str) -> str:
        own = view[view.rfind(">") + 1 :]
        return "NAN" if "B1>" + "x" * bad_pass in view else "x" if len(own) < 90 else "y"

    watch, backend = start(say, num_workers=2, max_passes=12, finisher_tokens=0)
    watch.run()
    assert [(e.worker, e.reason) for e in watch.of(ev.WorkerEnded)] == [(1, "nan")]
    assert not [e for e in watch.of(ev.StepPublished) if e.worker == 1]
    assert backend.views[-1] == ["Q:p;[others][own]<A1>" + "x" * 11]


def test_cancelling_one_worker_returns_its_pages():
    watch, _backend = start(lambda view: "x", num_workers=2, max_passes=12, finisher_tokens=0)
    while watch.session.pass_index < 5:
        watch.step()
    used = watch.engine.cache.pool.num_used
    watch.session.stop_worker(watch.session.workers[1])
    watch.check()
    assert watch.engine.cache.pool.num_used < used
    watch.run()
    assert watch.session.workers[1].num_sampled == 5


def test_a_dismissed_worker_leaves_what_it_wrote():
    watch, backend = start(reciter("abcdefgh"), num_workers=2, layout="contiguous")
    while watch.session.pass_index < 3:
        watch.step()
    watch.session.dismiss(watch.session.workers[1])
    watch.step()
    assert backend.views[-1] == ["Q:p;<B1>abc|<A1>abc"]
    assert [event.reason for event in watch.of(ev.WorkerEnded)] == ["dismissed"]
    watch.run()


def test_a_late_worker_sees_what_was_published_and_is_seen():
    watch, backend = start(reciter(SENTENCE, end="x"), num_workers=1, max_passes=30, finisher_tokens=0)
    while watch.session.pass_index < 7:
        watch.step()
    watch.session.join()
    watch.run()
    seen = [view for views in backend.views for view in views if view.endswith("[own]<B1>")]
    assert len(seen) == 1
    assert seen[0].startswith("Q:p;<A1>ab.\n\n")
    assert [e.worker for e in watch.of(ev.WorkerJoined)] == [0, 1]
    assert [e.worker for e in watch.of(ev.StepPublished)].count(1) >= 1


def test_labels_and_private_texts():
    layout = Layout(
        "private",
        view=("common", "label:note", others("label:title", "author"), "own"),
        texts={"note": ("secret of A.", "secret of B."), "title": "{name} says: "},
    )
    watch, backend = start(lambda view: "x", num_workers=2, layout=layout, max_passes=2, finisher_tokens=0)
    watch.run()
    assert backend.views[-1] == ["Q:p;secret of A.B says: <B1>x<A1>x", "Q:p;secret of B.A says: <A1>x<B1>x"]


def test_a_layout_that_reads_a_block_nobody_writes_is_refused():
    for view in (("common", "text:nothing", "own"), ("common", "worker:5", "own")):
        with pytest.raises(LayoutError, match=r"nobody writes|not there"):
            start(lambda view: "x", layout=Layout("bad", view=view))


def test_sessions_in_one_batch_are_as_if_alone():
    def say(view: str) -> str:
        return reciter(f"{view[2]}b.\n\n", end="x")(view)

    alone = {}
    for problem in ("pqr", "s" * 600, "t"):
        watch, _ = start(say, problem=problem, num_workers=2, max_passes=20)
        alone[problem] = [e.token_id for e in watch.run() if isinstance(e, ev.TokenWritten)]
    engine, backend = fake_engine(say)
    options = SessionOptions(num_workers=2, max_passes=20, sampling=GREEDY)
    sessions = {engine.submit(problem, options, STYLE).index: problem for problem in alone}
    events = list(engine.events())
    for index, problem in sessions.items():
        mine = [e.token_id for e in events if isinstance(e, ev.TokenWritten) and e.session == index]
        assert mine == alone[problem]
    assert max(len(views) for views in backend.views) == 6, "all sessions share a pass"
    assert engine.cache.pool.num_used == 0


def test_admission_reserves_the_worst_case_or_refuses():
    engine, _ = fake_engine(lambda view: "x", max_cache_tokens=1024)
    small = SessionOptions(num_workers=1, max_tokens=64, max_passes=64, sampling=GREEDY)
    first = engine.submit("p", small, STYLE)
    with pytest.raises(PoolExhausted):
        engine.submit("p", SessionOptions(num_workers=4, max_tokens=4096, sampling=GREEDY), STYLE)
    list(engine.events())
    assert first.ended
    assert engine.cache.pool.num_used == engine.cache.pool.num_reserved == 0


@pytest.mark.parametrize("problem", ["", "  \n"])
def test_an_empty_problem_is_refused(problem):
    with pytest.raises(PromptError):
        start(lambda view: "x", problem=problem)


def test_a_prompt_longer_than_the_context_is_refused():
    with pytest.raises(PromptError, match="longer than the model's context"):
        start(lambda view: "x", problem="p" * 200, context_size=100)


@pytest.mark.parametrize("bad", [{"num_workers": 0}, {"max_passes": 0}, {"budgets": (3, 2)}, {"finish": "some"}])
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(OptionError):
        SessionOptions(**bad)


def test_random_numbers_depend_on_seed_worker_and_place_alone():
    sampling = SamplingParams(temperature=1.0)
    drawn = []
    for workers in (1, 3):
        watch, backend = start(lambda view: "x", num_workers=workers, seed=5, sampling=sampling, max_passes=9)
        watch.run()
        drawn.append([requests[0].uniform for requests in backend.requests if requests and len(requests) == workers])
    assert drawn[0][:8] == drawn[1][:8]
    assert len(set(drawn[0][:8])) == 8


def test_a_random_number_is_the_first_of_its_count_in_whatever_order_it_is_asked_for():
    key = np.random.SeedSequence([5, 1]).generate_state(2, np.uint64)
    numbers = Uniforms(5, 1)
    for place in (0, 1, 63, 64, 65, 2, 1000, 999, 1 << 40, 0):
        assert numbers[place] == np.random.Generator(np.random.Philox(key=key, counter=place)).random()
