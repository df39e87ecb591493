"""ROUGE against values worked out by hand."""

import pytest
from moai_worker import rouge


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's  HAT, 3.5!", ["the", "cat", "s", "hat", "3", "5"]),
        ("서울에서 비가 왔다.", ["서울에서", "비가", "왔다"]),
        ("東京は雨 rain", ["東", "京", "は", "雨", "rain"]),
        ("ﬁne Straße", ["fine", "strasse"]),
        (" \n--- ", []),
    ],
)
def test_tokens(text, expected):
    assert rouge.tokens(text) == expected


def test_the_example_of_the_definition():
    # Lin 2004, section 3: reference "police killed the gunman".
    found = rouge.scores("police kill the gunman", "police killed the gunman")
    assert found["rougeL"] == pytest.approx(0.75)
    assert found["rouge1"] == pytest.approx(0.75)
    assert found["rouge2"] == pytest.approx(1 / 3)  # "the gunman": 1 of 3 pairs on each side
    found = rouge.scores("the gunman kill police", "police killed the gunman")
    assert found["rougeL"] == pytest.approx(0.5) and found["rouge1"] == pytest.approx(0.75)


def test_lengths_that_differ_and_words_that_repeat():
    # Candidate 3 tokens, reference 6; "the" counts once on the candidate's side: overlap the, cat = 2 of 3.
    found = rouge.scores("the cat ran", "the cat sat on the mat")
    precision, recall = 2 / 3, 2 / 6
    assert found["rouge1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 5) / (1 / 2 + 1 / 5))
    found = rouge.scores("the the the the", "the cat")
    assert found["rouge1"] == pytest.approx(2 * (1 / 4) * (1 / 2) / (1 / 4 + 1 / 2))
    assert found["rouge2"] == 0.0 and found["rougeL"] == found["rouge1"]


@pytest.mark.parametrize(("candidate", "reference"), [("", "a b"), ("a b", ""), ("", ""), ("a", "b")])
def test_nothing_in_common_is_zero(candidate, reference):
    assert set(rouge.scores(candidate, reference).values()) == {0.0}


def test_equal_texts_are_one_and_the_mean_is_over_rows():
    assert set(rouge.scores("a b c", "A, b c.").values()) == {1.0}
    assert rouge.mean([("a b c", "a b c"), ("x", "y")]) == {"rows": 2, "rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5}
    assert rouge.mean([])["rows"] == 0
