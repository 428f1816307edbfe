"""Encoding and packing of starter rows."""

from potstill.starter.batching import Encoded, encode, packed, pool_of


def _letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_a_short_reply_weighs_more_a_token_than_a_long_one_and_a_prompt_little() -> None:
    def row(reply: str) -> dict[str, list[dict[str, str]]]:
        return {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": reply}]}

    # A token a word, so that the reply's length is under control.
    short = encode(row("yes"), lambda text: list(range(len(text.split()) + 2)))
    long = encode(row("yes " * 30), lambda text: list(range(len(text.split()) + 2)))
    assert short.weights[-1] > long.weights[-1] == 1.0
    assert 0 < short.weights[1] < 0.2
    assert short.weights[0] == 0


def test_packing_loses_nothing_and_restarts_positions() -> None:
    pool = pool_of(3, {"nli": 5, "qa": 5}, _letters)
    lines = list(packed(pool, 900, pad=-1))
    assert all(len(line.ids) == len(line.weights) == len(line.positions) == 900 for line in lines)
    assert sum(token != -1 for line in lines for token in line.ids) == sum(len(row.ids) for row in pool)
    num_starts = sum(line.positions.count(0) for line in lines)
    assert len(pool) <= num_starts <= len(pool) + len(lines)


def test_padding_has_no_weight() -> None:
    (line,) = packed([Encoded([7, 8], [0.0, 1.0], [0, 1])], 4, pad=0)
    assert line == ([7, 8, 0, 0], [0.0, 1.0, 0.0, 0.0], [0, 1, 0, 1])


def test_the_same_pool_number_gives_the_same_rows() -> None:
    assert pool_of(1, {"math": 4}, _letters) == pool_of(1, {"math": 4}, _letters)
    assert pool_of(1, {"math": 4}, _letters) != pool_of(2, {"math": 4}, _letters)
