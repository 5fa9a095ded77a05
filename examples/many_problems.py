"""Several problems in one batch: every pass computes the new tokens of all workers of all problems together."""

import hogwild

PROBLEMS = {
    "Write a few facts about tea.": hogwild.SessionOptions(num_workers=2, max_passes=24, seed=1),
    "Write a few facts about cats and dogs.": hogwild.SessionOptions(num_workers=3, max_passes=16, seed=2),
    "Name some rivers.": hogwild.SessionOptions(
        num_workers=2, max_passes=16, layout=hogwild.LAYOUTS["independent"], seed=3
    ),
}

model = hogwild.load("bundled", backend="reference")
engine = hogwild.Engine(model)
sessions = {engine.submit(problem, options, style="pair").index: problem for problem, options in PROBLEMS.items()}

texts: dict[tuple[int, int], str] = {}
for event in engine.events():  # until every problem has ended; `engine.step()` does a single pass
    if isinstance(event, hogwild.events.TokenWritten):
        author = event.session, event.worker
        texts[author] = texts.get(author, "") + event.text
    if isinstance(event, hogwild.events.SessionEnded):
        sampled = sum(account["sampled"] for account in event.usage)
        print(f"problem {event.session} ended ({event.reason}): {sampled} tokens sampled")

for (session, worker), text in sorted(texts.items()):
    print(f"\n[{sessions[session]}] worker {worker}:\n{text}")
engine.close()
