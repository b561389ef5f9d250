"""The contrast that the browser tests compute, against values that are known."""

import pytest
from contrast import Shown, contrast, over, parsed

BLACK, WHITE = (0, 0, 0, 1), (255, 255, 255, 1)


def shown(colour, *grounds, size=16.0, weight=400, opacity=1.0):
    return Shown("text", "there", size, weight, colour, opacity, list(grounds))


def test_known_contrasts():
    assert contrast(BLACK, WHITE) == contrast(WHITE, BLACK) == pytest.approx(21)
    assert contrast(WHITE, WHITE) == 1
    assert contrast(parsed("rgb(118, 118, 118)"), WHITE) == pytest.approx(4.54, abs=0.005)  # WebAIM's #767676
    assert contrast(parsed("rgb(255, 0, 0)"), WHITE) == pytest.approx(4.00, abs=0.005)


def test_colours_lie_over_one_another():
    assert over((0, 0, 0, 0.5), WHITE) == (127.5, 127.5, 127.5, 1)
    assert shown("rgb(0, 0, 0)", "rgba(0, 0, 0, 0)", "rgb(255, 255, 255)").contrast == pytest.approx(21)
    assert shown("rgb(0, 0, 0)", "rgba(0, 0, 0, 1)", "rgb(255, 255, 255)").contrast == 1
    pale = shown("rgb(0, 0, 0)", "rgb(255, 255, 255)", opacity=0.5)
    assert pale.contrast == pytest.approx(contrast((127.5, 127.5, 127.5, 1), WHITE))


def test_large_text_may_be_paler():
    assert [shown("rgb(0, 0, 0)", size=size).least for size in (16, 23.9, 24)] == [4.5, 4.5, 3]
    assert [shown("rgb(0, 0, 0)", size=size, weight=700).least for size in (18, 18.7)] == [4.5, 3]


def test_what_is_no_colour_is_refused():
    with pytest.raises(ValueError, match="not a computed colour: 'red'"):
        parsed("red")
