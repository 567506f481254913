"""Words that are spelt alike, against a plain comparison with every word of the catalog."""

from __future__ import annotations

import random

from catalog.spelling import LEAST, MOST, alike
from catalog.words import similarity, trigrams
from penstock import postgres


def test_words_alike_are_those_of_a_comparison_with_every_word(catalog: str) -> None:
    rnd = random.Random(4)
    known = sorted({"".join(rnd.choices("abno", k=rnd.randint(1, 9))) for _ in range(1500)} | {"ananananana", "a" * 30})
    with postgres.connect(catalog, "test") as session:
        with session.cursor().copy("COPY catalog.words (word, trigrams, changed) FROM STDIN") as copy:
            for word in known:
                copy.write_row((word, sorted(trigrams(word)), 0))
        for word in (*rnd.sample(known, 40), "b", "ab", "nabobana", "oooo", "a" * 60):
            likeness = {other: round(similarity(word, other), 3) for other in known if other != word}
            nearest = sorted((-one, other) for other, one in likeness.items() if one >= LEAST)[:MOST]
            found = alike(session, [word])
            assert found == ({word: {other: -one for one, other in nearest}} if nearest else {})
            assert list(found.get(word, ())) == [other for _, other in nearest]
