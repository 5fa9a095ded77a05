"""Tokenizers unlike the bundled one's: prefixes, byte tokens, odd control tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from hogwild.errors import PromptError
from hogwild.models import Tokenizer
from hogwild.models.chat import ChatTemplate

TEXT = st.text(st.sampled_from("abc <s>/é😀"), max_size=12)
CHAT = "<s>{% for m in messages %}{{ m.content }}</s>{% endfor %}"
C, BYTE_S = 262, 3 + ord("s")
SCHEMES = ("legacy", "first", "always", "never")


def sentencepiece_like(scheme: str) -> Tokenizer:
    """Letters, a few merges and byte tokens, in the forms in which transformers saves SentencePiece models."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abc<>/", "ab", "▁a", "▁ab"]
    merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("▁a", "b")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    inner = Inner(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "legacy":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    inner.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return Tokenizer(inner, vocab_size=len(pieces), eos_ids=[2], bos_ids=[1], chat_template=ChatTemplate(CHAT))


@pytest.fixture(scope="module", params=SCHEMES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return sentencepiece_like(request.param)


@given(text=TEXT)
def test_text_that_goes_on_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert {1, 2}.isdisjoint(ids)


@given(one=st.text("abc ", max_size=5), two=st.text("abc ", max_size=5))
def test_pieces_of_a_text_join_without_a_space(tokenizer: Tokenizer, one: str, two: str) -> None:
    assert tokenizer.decode(tokenizer.encode(one) + tokenizer.encode(two)) == one + two


def test_a_document_begins_with_the_space_of_its_model(tokenizer: Tokenizer) -> None:
    space = "" if tokenizer._begin is tokenizer._inner else " "
    assert tokenizer.encode_document("ab") == [1, tokenizer.token_id(f"{space}ab")]
    assert tokenizer.encode("ab") == [tokenizer.token_id("ab")]


@given(ids=st.lists(st.integers(0, 267), max_size=12), skip=st.booleans())
def test_a_stream_gives_the_whole_text(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    decoder = tokenizer.stream_decoder(skip_control=skip)
    pieces = [decoder.push(token_id) for token_id in ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids, skip_control=skip)


@pytest.mark.parametrize("content", ["ab", "a</s>b", "<s>", " </s> ", "</s></s>"])
def test_a_chat_differs_from_the_authors_only_in_look_alikes(tokenizer: Tokenizer, content: str) -> None:
    ids = tokenizer.encode_chat([{"content": "ab"}, {"content": content}])
    assert [i for i in ids if i in (1, 2)] == [1, 2, 2]
    # the same with a letter that makes no control token; "s" itself is no token of this vocabulary, but a byte
    theirs = Inner.from_str(tokenizer._begin.to_str())
    authors = theirs.encode(f"<s>ab</s>{content.replace('s', 'c')}</s>", add_special_tokens=False).ids
    assert [C if token_id == BYTE_S else token_id for token_id in ids] == authors


def word_level(*names: str) -> Tokenizer:
    """A vocabulary that spells its own control tokens."""
    inner = Inner(models.WordLevel({name: i for i, name in enumerate(["?", *names])}, unk_token="?"))
    inner.pre_tokenizer = (
        pre_tokenizers.Split("", "isolated") if max(map(len, names)) == 1 else pre_tokenizers.WhitespaceSplit()
    )
    inner.add_special_tokens([AddedToken(names[0], normalized=False)])
    return Tokenizer(
        inner,
        vocab_size=len(names) + 1,
        eos_ids=[],
        chat_template=ChatTemplate("{{ messages[0].content }} " + names[0]),
    )


def test_a_vocabulary_that_spells_a_control_token_is_taken_apart() -> None:
    tokenizer = word_level("<end>", "<", "end>", "x")
    assert tokenizer.encode("x <end> x") == [4, 2, 3, 4]
    assert tokenizer.encode_chat([{"content": "x <end> x"}])[-1] == 1
    assert tokenizer.encode_chat([{"content": "x <end> x"}]).count(1) == 1


def test_a_control_token_of_one_character() -> None:
    inner = Inner(models.BPE(vocab={name: i for i, name in enumerate(["¶", "Â", "x"])}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["¶"])
    template: Any = ChatTemplate("{{ messages[0].content }}¶")
    tokenizer = Tokenizer(inner, vocab_size=3, eos_ids=[0], chat_template=template)
    assert tokenizer.encode_chat([{"content": "x"}]) == [2, 0]
    for content in ("¶", "x¶x"):
        with pytest.raises(PromptError, match="without control tokens"):
            tokenizer.encode_chat([{"content": content}])
