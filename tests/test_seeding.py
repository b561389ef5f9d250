"""Random bits by a name and numbers: always the same, and others for another name or number."""

import numpy as np

from ninscope.seeding import keyed_bits, words_of


def test_words_are_those_of_sha256():
    # sha256sum of nothing: e3b0c442 98fc1c14 ... 7852b855, whose bytes are read from the lowest on.
    words = words_of("")
    assert (len(words), words[0], words[7]) == (8, 0x42C4B0E3, 0x55B85278)


def test_bits_follow_from_the_name_and_the_numbers_alone():
    drawn = {key: tuple(keyed_bits(*key).random_raw(4)) for key in (("a", 1, 2), ("a", 2, 1), ("a", 1), ("b", 1, 2))}
    assert len(set(drawn.values())) == 4
    np.random.PCG64(3).random_raw(5)
    assert tuple(keyed_bits("a", 1, 2).random_raw(4)) == drawn["a", 1, 2]
