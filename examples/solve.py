"""The high-level API: one problem, two workers, and what each of them wrote."""

import hogwild

model = hogwild.load("bundled", backend="reference")

result = hogwild.solve(
    model, "Write a few facts about tea and about coffee.", style="pair", num_workers=2, max_passes=48, seed=2
)

for step in result.transcript.published:
    print(step.text.strip())
for name, text in result.texts.items():
    print(f"\n{name} wrote {len(text.split())} words, in all:\n{text}")
print(f"\nanswer: {result.answer}; ended by: {result.reason}")  # the bundled model is far too small to find answers

# The same as events, while it happens. Leaving the loop ends the session and frees its memory.
print("\nthe first words, as they come:")
num_words = 0
for event in hogwild.stream(model, "Write a few facts about tea and about coffee.", style="pair", max_passes=48):
    if isinstance(event, hogwild.events.TokenWritten):
        print(f"pass {event.pass_index}, worker {event.worker}: {event.text!r}")
        num_words += 1
    if num_words == 12:
        break

model.close()
