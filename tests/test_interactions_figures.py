"""Figures of interactions show the numbers of the tables, and say what is missing."""

import io

import numpy as np
import pandas as pd
import pytest

from ninscope.report.interactions_figure import coupling_map_figure, interactions_figure
from ninscope.report.layout import png, text_width

STEPS = [0, 1, 8, 64]


def rows(steps=STEPS, kinds=("mlp", "across")) -> pd.DataFrame:
    """Coupling of block i's pairs at the place p of a step: p * (1 + i) / 10, of those across a half of it."""
    made = []
    for place, step in enumerate(steps):
        for i in range(3):
            if "mlp" in kinds:
                ends = {"writer": f"block{i}.a -> block{i}.m", "reader": f"block{i}.m -> block{i + 1}.x"}
                made.append({"step": step, "kind": "mlp", "coupling": place * (1 + i) / 10, **ends})
            for j in range(i + 1, 3) if "across" in kinds else ():
                ends = {"writer": f"block{i}.m -> block{i + 1}.x", "reader": f"block{j}.x -> block{j}.q"}
                made.append({"step": step, "kind": "across", "coupling": place * (1 + i) / 20, **ends})
    columns = ["step", "kind", "coupling", "writer", "reader", "message"]
    return pd.DataFrame(made, columns=columns).astype({"step": "Int64", "message": "string"})


def weights(steps=STEPS) -> pd.DataFrame:
    made = [
        {"step": step, "matrix": matrix, "spikes": spikes, "spike_share": spikes / 20}
        for step in steps
        for matrix, spikes in (("a", step), ("b", step + 2), ("all", 1000))
    ]
    return pd.DataFrame(made, columns=["step", "matrix", "spikes", "spike_share"]).astype({"spikes": "Int64"})


EMERGENCE = pd.DataFrame(
    {"step": STEPS, "method": "exact", "emergence": [0.0, 0.1, 0.4, 0.9], "message": "", "baseline": "step0"}
)
LOSSES = pd.DataFrame({"step": STEPS, "task": "held_out", "metric": "loss", "value": [5.0, 4.0, 3.0, 2.0]})
NONE = EMERGENCE.iloc[:0]


def drawn(figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=40, metadata={"Software": None})
    return content.getvalue()


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in axes.lines}


def test_lines_are_means_of_the_tables():
    figure = interactions_figure(rows(), EMERGENCE, LOSSES, weights(), title="tiny")
    coupling, spikes, emergence, share, loss = figure.axes
    known = lines(coupling)
    np.testing.assert_allclose(known["MLP: in to out (3 pairs)"], [0, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(known["across blocks (3 pairs)"], np.arange(4) * (1 + 1 + 2) / 3 / 20)
    np.testing.assert_allclose(lines(spikes)["spikes of a matrix, mean"], np.array(STEPS) + 1)
    np.testing.assert_allclose(lines(share)[r"their share of $\|W\|^2$"], (np.array(STEPS) + 1) / 20)
    np.testing.assert_allclose(lines(emergence)["E against step0, whole network"], [0, 0.1, 0.4, 0.9])
    np.testing.assert_allclose(lines(loss)["held-out loss"], [5, 4, 3, 2])
    band = coupling.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.75)  # the upper quartile of .3, .6, .9
    assert "tiny" in coupling.get_title()
    assert drawn(figure) == drawn(interactions_figure(rows(), EMERGENCE, LOSSES, weights(), title="tiny"))


def test_labels_of_second_ordinates_stand_beyond_their_ticks():
    figure = interactions_figure(rows(), EMERGENCE, LOSSES, weights(), title="tiny")
    figure.canvas.draw()
    for axes in figure.axes[3:]:
        label = axes.yaxis.label.get_window_extent()
        for tick in axes.yaxis.get_majorticklabels():
            assert not tick.get_text() or label.x0 >= tick.get_window_extent().x1 - 1
        assert label.x1 <= figure.bbox.x1


def test_without_spikes_or_a_loss_there_are_fewer_panels():
    figure = interactions_figure(rows(), EMERGENCE, LOSSES.iloc[:0], weights([]), title="tiny")
    assert len(figure.axes) == 2
    assert drawn(figure)


def test_what_is_missing_is_said():
    nothing = rows(kinds=())
    nothing.loc[0] = {"step": 0, "message": "no pair of matrices is known"}
    figure = interactions_figure(nothing, NONE, LOSSES.iloc[:0], weights([]), title="tiny")
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert said == ["no pair of matrices is known", "no checkpoint has a spectrum"]
    empty = coupling_map_figure(nothing, "tiny")
    assert [text.get_text() for text in empty.axes[0].texts] == ["no pair of matrices has a coupling"]
    assert drawn(figure)
    assert drawn(empty)


def test_the_map_is_of_the_last_step():
    figure = coupling_map_figure(rows(), "tiny")
    across, within, bar = figure.axes
    np.testing.assert_allclose(
        np.ma.filled(across.images[0].get_array(), np.nan), [[0.15, 0.15], [np.nan, 0.3]], equal_nan=True
    )
    np.testing.assert_allclose(within.images[0].get_array(), [[0.3], [0.6], [0.9]])
    assert "(step 64)" in figure.get_suptitle()
    assert [label.get_text() for label in across.get_xticklabels()] == ["1", "2"]
    assert [label.get_text() for label in across.get_yticklabels()] == ["0", "1"]
    assert bar.get_ylim() == pytest.approx((0, 0.9))
    assert drawn(figure)


def test_the_map_of_one_block_has_no_panel_across():
    figure = coupling_map_figure(rows(kinds=("mlp",)), "tiny")
    assert [axes.get_title() for axes in figure.axes] == ["within blocks", ""]
    assert drawn(figure)


def test_names_below_the_map_do_not_meet():
    """Blocks of a UNet have long names."""
    names = [f"down_blocks.{i}.attentions.0" for i in range(12)]
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number:]]
    columns = {"step": 8, "kind": "across", "coupling": 0.1, "message": ""}
    made = pd.DataFrame([columns | {"writer": f"{a}.m -> out.x", "reader": f"{b}.x -> b.q"} for a, b in pairs])
    figure = coupling_map_figure(made, title="unet")
    axes = figure.axes[0]
    cell = axes.bbox.width / figure.dpi * 72 / len(names)
    assert np.diff(axes.get_xticks()).min() * cell > text_width(names[0], 8)


def test_what_an_empty_panel_says_stays_in_it():
    nothing = rows([]).reindex([0])
    nothing["message"] = (
        "heads and gains of normalisations are not known of this family; no pair of matrices is known of "
    )
    nothing["message"] += "which one reads what the other writes"
    figure = interactions_figure(nothing, EMERGENCE, LOSSES, weights(), title="tiny")
    png(figure)
    axes = figure.axes[0]
    box = axes.texts[0].get_window_extent()
    assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
