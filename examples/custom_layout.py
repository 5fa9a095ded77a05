"""A layout is data: a writer and a thinker who see each other, and a note that only the thinker can read.

The same layout stands in `writer_and_thinker.json`, for `hogwild generate --layout examples/writer_and_thinker.json`.
"""

import hogwild

NOTE = "A note that only the thinker has: the stranger's name is Zorka, and she is a pilot.\n\n"

layout = hogwild.Layout(
    "writer_and_thinker",
    # The writer is worker 0. It sees the prompt, what the thinker (worker 1) writes, and its own text.
    view=("common", "worker:1", "text:separator", "own"),
    # The thinker has a view of its own, with a block that is in nobody else's.
    special_views={1: ("common", "text:note", "worker:0", "text:separator", "own")},
    texts={"note": NOTE, "separator": "\n\n"},
)

style = hogwild.PromptStyle(
    name="writer_and_thinker",
    version=1,
    chat=False,
    user="{problem}\n\n",
    names=("Writer", "Thinker"),
    header="{name}:",
    greetings=(" A stranger came to the village. Nobody knew her. She said", " I know from the note that her name is"),
    boxed=False,
)

model = hogwild.load("bundled", backend="reference")
result = hogwild.solve(
    model,
    "A story about a stranger who comes to a village.",
    style=style,
    layout=layout,
    max_passes=40,
    finisher_tokens=0,
    sampling=hogwild.SamplingParams(temperature=0, repetition_penalty=1.2),
)
for name, text in result.texts.items():
    print(f"{text}\n--- ({name})\n")
model.close()
