"""Text from token bytes: whole characters, no stop string, nothing lost, for any token boundaries."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serve.engine.detokenizer import Detokenizer
from serve.engine.events import TokenLogprob


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(borders)]


def run(pieces: list[bytes], stops: tuple[str, ...]) -> tuple[list[str], list[int], bool]:
    output = Detokenizer(stops)
    texts, tokens = list[str](), list[int]()
    for number, piece in enumerate(pieces):
        text, logprobs = output.feed(piece, TokenLogprob(number, piece, -1.0))
        texts.append(text)
        tokens += [entry.token for entry in logprobs]
        if output.stopped:
            break
    text, logprobs = output.finish()
    return [*texts, text], tokens + [entry.token for entry in logprobs], output.stopped


@given(st.text(max_size=60), st.lists(st.integers(0, 300)))
def test_text_does_not_depend_on_token_boundaries(text: str, cuts: list[int]) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces = pieces_of(text.encode(), cuts)
    texts, tokens, _ = run(pieces, ())
    assert "".join(texts) == text and tokens == list(range(len(pieces)))
    assert all("\ufffd" not in part or "\ufffd" in text for part in texts)


@given(
    st.text("ab", max_size=30),
    st.lists(st.integers(0, 60)),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_no_part_of_a_stop_string_is_returned(text: str, cuts: list[int], stops: list[str]) -> None:
    texts, _, stopped = run(pieces_of(text.encode(), cuts), tuple(stops))
    given = "".join(texts)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert stopped == bool(ends)
    if not ends:
        assert given == text
        return
    # tokens arrive whole, so of two stop strings the first one completed counts; the text contains neither
    assert text.startswith(given) and not any(stop in given for stop in stops)
    assert any(text[len(given) :].startswith(stop) for stop in stops)


def test_held_back_text_is_returned_if_no_stop_string_follows() -> None:
    output = Detokenizer(("###",))
    assert output.feed(b"a#")[0] == "a"
    assert output.feed(b"#")[0] == ""
    assert output.feed(b"b")[0] == "##b"
    assert output.feed("é".encode()[:1])[0] == "" and output.feed("é".encode()[1:])[0] == "é"
    assert output.feed(b"#")[0] == "" and output.finish()[0] == "#"


def test_incomplete_final_character_becomes_a_replacement_character() -> None:
    output = Detokenizer()
    output.feed("😀".encode()[:2])
    assert output.finish()[0] == "\ufffd"
