"""The bundled model's tokenizer against a naive implementation, and what holds for every text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bpe import NaiveBpe
from tricky import TRICKY

from hogwild.errors import PromptError, TokenError
from hogwild.models import Checkpoint

IM_START, IM_END = 1, 2
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LIKELY_TEXT = st.lists(
    st.sampled_from([*"aeé 's'll\n\t.7½<|>字😀\u200d\u0301", "<|im_end|>", "\n\n", "  "]), max_size=30
).map("".join)


def test_facts_of_the_bundled_model(bundled: Checkpoint) -> None:
    tokenizer = bundled.tokenizer
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_ids == {IM_END}
    assert tokenizer.control_ids == set(range(17))
    assert tokenizer.bos_ids == ()
    assert tokenizer._begin is tokenizer._inner  # no second copy where no space is put before a text
    assert tokenizer.encode("\n\n") == [1116]
    assert tokenizer.token_id("\n\n") == 1116
    assert tokenizer.token_id("<|im_end|>") == IM_END
    assert tokenizer.token_id("two tokens") is None
    assert [tokenizer.token_text(i) for i in tokenizer.encode("x=1024")] == ["x", "=", "1", "0", "2", "4"]


def test_tricky_texts_equal_the_definition(bundled: Checkpoint, naive: NaiveBpe) -> None:
    assert len(TRICKY) > 100
    for text in TRICKY:
        ids = bundled.tokenizer.encode(text)
        assert ids == naive.encode(text), text
        assert bundled.tokenizer.decode(ids) == text or not naive.spells(text)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT | LIKELY_TEXT)
def test_any_text_equals_the_definition_and_comes_back(bundled: Checkpoint, naive: NaiveBpe, text: str) -> None:
    ids = bundled.tokenizer.encode(text)
    assert ids == naive.encode(text)
    assert bundled.tokenizer.decode(ids) == text or not naive.spells(text)
    assert bundled.tokenizer.control_ids.isdisjoint(ids)
    assert bundled.tokenizer.encode_document(text) == ids


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 49151) | st.integers(0, 300), max_size=40), skip=st.booleans())
def test_a_stream_gives_the_whole_text(bundled: Checkpoint, ids: list[int], skip: bool) -> None:
    decoder = bundled.tokenizer.stream_decoder(skip_control=skip)
    pieces = [decoder.push(token_id) for token_id in ids]
    assert "".join(pieces) + decoder.flush() == bundled.tokenizer.decode(ids, skip_control=skip)
    assert decoder.flush() == ""


def test_a_stream_holds_back_an_unfinished_character(bundled: Checkpoint) -> None:
    tokenizer = bundled.tokenizer
    ids = tokenizer.encode("a🦩b")
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in ids]
    assert "" in pieces
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == "a🦩b"


def test_decode_names_control_tokens_only_on_request(bundled: Checkpoint) -> None:
    ids = [IM_START, *bundled.tokenizer.encode("user"), IM_END]
    assert bundled.tokenizer.decode(ids) == "user"
    assert bundled.tokenizer.decode(ids, skip_control=False) == "<|im_start|>user<|im_end|>"


def test_bad_ids_and_text_are_refused(bundled: Checkpoint) -> None:
    for token_id in (-1, 49152):
        with pytest.raises(TokenError):
            bundled.tokenizer.decode([token_id])
    with pytest.raises(PromptError, match="surrogate"):
        bundled.tokenizer.encode("\ud800")


def test_few_characters_cannot_be_spelled(naive: NaiveBpe) -> None:
    """The exception in the tests above is narrow: in the first plane, six control characters."""
    missing = [code for code in range(0x10000) if not 0xD800 <= code < 0xE000 and not naive.spells(chr(code))]
    assert missing == [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D]


@pytest.mark.slow
def test_transformers_agrees_but_for_numbers(bundled: Checkpoint) -> None:
    """Its reader of GGUF files does not split numeric characters, as the original tokenizer does."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(bundled.path.parent), gguf_file=bundled.path.name)
    texts = [text for text in TRICKY if not any(char.isnumeric() for char in text)]
    assert len(texts) > 80
    for text in texts:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == bundled.tokenizer.encode(text), text
