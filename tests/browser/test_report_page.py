"""report.html in a real browser: what a reader sees and does, by mouse and by keyboard, wide and narrow, light and dark."""

import base64
import io
import itertools
import re
import time
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest
from conftest import HOSTILE, HOSTILE_RUN, HOSTILE_TEXT
from contrast import BORDER, BORDERS, TEXTS, Shown
from opened_page import increasing, painted

pytestmark = pytest.mark.slow

FIGURES = "return [...document.querySelectorAll('figure[data-chart]')].map((figure) => figure.dataset.chart)"
# Of every chart: its state, and how many marks of it can be seen. Axes and legends are no marks.
MARKS = """
return Object.fromEntries([...document.querySelectorAll('figure[data-chart]')].map((figure) => {
  const marks = [...figure.querySelectorAll('svg .role-mark:not(.mark-group) > *')];
  const seen = marks.filter((mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height > 0; });
  return [figure.dataset.chart, [figure.dataset.state, seen.length]];
}));
"""
# Elements that reach beyond the screen, but for those inside a box that scrolls or hides the rest.
BEYOND = """
const inBox = (element) => {
  for (let at = element.parentElement; at && at !== document.body; at = at.parentElement) {
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(at).overflowX)) return true;
  }
  return false;
};
return [...document.body.querySelectorAll('*')]
  .filter((element) => !element.closest('.unseen, .skip, script') && element.checkVisibility({ visibilityProperty: true }))
  .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .filter((element) => !inBox(element))
  .map((element) => `${element.tagName} ${element.className} in ${element.closest('[id]')?.id}`);
"""
# Texts of charts that are cut off by the edge of their drawing.
CUT = """
const cut = [];
for (const svg of document.querySelectorAll('.canvas svg')) {
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (!box.width || Number(getComputedStyle(text).opacity) === 0) continue;
    if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2 || box.top < frame.top - 2) {
      cut.push(`${svg.closest('figure').dataset.chart}: ${text.textContent}`);
    }
  }
}
return cut;
"""
# How wide the plot of every chart is, without its axes: long names may take all of it.
PLOTS = """
return Object.fromEntries([...document.querySelectorAll('figure[data-chart]')].map((figure) => [
  figure.dataset.chart, figure.querySelector('.role-frame .background').getBoundingClientRect().width,
]));
"""
# Everything that Tab should stop at, in the order of the page: of radio buttons of one group the chosen one.
TABBABLE = """
return [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')]
  .filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled)
  .filter((element) => element.tabIndex >= 0 && !(element.type === 'radio' && !element.checked))
  .map(described);
"""
DESCRIBED = """
const described = (element) => [
  element.tagName.toLowerCase(), element.type ?? '', element.id || element.closest('[id]')?.id || '',
  (element.getAttribute('aria-label') ?? element.textContent).trim().slice(0, 60),
].join(' | ');
"""
WATCH_FOCUS = f"""
{DESCRIBED}
window.stops = [];
window.watchFocus = (event) => {{
  const style = getComputedStyle(event.target);
  window.stops.push({{ what: described(event.target), outline: style.outlineStyle, width: parseFloat(style.outlineWidth),
    colour: style.outlineColor, visible: event.target.checkVisibility({{ visibilityProperty: true }}) }});
}};
document.addEventListener('focusin', window.watchFocus);
"""
CONTROLS = {"button", "combobox", "slider", "searchbox", "textbox", "radio", "checkbox", "link", "spinbutton", "image"}
NAMED = CONTROLS | {"region", "navigation"}


# Paths of a chart's lines and points; of legends and axes there are others.
LINES = "return [...arguments[0].querySelectorAll('.mark-line.role-mark path')]"
POINTS = "return [...arguments[0].querySelectorAll('.mark-symbol.role-mark path')]"
WIDTHS = "const root = document.scrollingElement; return [root.clientWidth, root.scrollWidth]"
SAYS = "return document.querySelector('#table-view .dt-info').textContent.includes(arguments[0])"
SORTED = "return document.querySelector('#table-view thead th[aria-sort]')?.getAttribute('aria-sort') === arguments[0]"
TOOLTIP = "return document.getElementById('vg-tooltip-element')?.innerText ?? ''"


def chart(page, name):
    """A chart's figure, on the screen."""
    return page.show(f"figure[data-chart='{name}']")


def spectrum(page):
    """(what the chart of spectra says of the step, the lines of that step)."""
    return page.run(
        "const figure = document.querySelector(\"figure[data-chart='spectra-f']\");"
        "const titles = [...figure.querySelectorAll('.role-title text')].map((text) => text.textContent);"
        "const lines = [...figure.querySelectorAll('.mark-line path')];"
        "const strong = lines.filter((path) => path.getAttribute('stroke-width') === '2.5');"
        "return [titles.join(' '), strong.map((path) => path.getAttribute('d')).join(' ')]"
    )


# --- it opens ------------------------------------------------------------------------------------------------------------
def test_it_opens_from_a_file_without_a_network_and_asks_for_nothing(page, real):
    page.load(real.page)
    page.until("return document.documentElement.dataset.drawn === 'all'")
    page.run("document.getElementById('tables').scrollIntoView()")
    page.until("return document.getElementById('table-view').dataset.table")
    assert page.requests() == [real.page.as_uri()]
    assert page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert page.run("return navigator.onLine") is False
    assert page.run("return document.documentElement.lang") == "en"


def test_its_policy_holds(page):
    """What it forbids is refused by this browser: a page that were opened without it would pass all other tests too."""
    page.run(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script); script.remove();"
        # Later, since what a driver runs may evaluate.
        "setTimeout(() => { try { (0, eval)('1'); window.tried = 'evaluated' } catch (error) { window.tried = error.name } })"
    )
    assert page.until("return window.tried") == "EvalError"
    assert page.run("return window.ran === undefined")
    told = page.messages()
    assert len(told) == 1, told
    assert "violates the following Content Security Policy directive 'script-src" in told[0]


def test_every_chart_draws_its_marks(page):
    names = page.run(FIGURES)
    assert len(names) > 20
    assert len(set(names)) == len(names)
    for name in names:
        chart(page, name)
    marks = page.run(MARKS)
    assert {name for name, (state, _) in marks.items() if state != "drawn"} == set()
    assert {name: count for name, (_, count) in marks.items() if count < 2} == {}


# --- what moves ----------------------------------------------------------------------------------------------------------
def test_the_slider_shows_the_spectrum_of_another_step(page, real):
    from selenium.webdriver.common.keys import Keys

    chart(page, "spectra-f")
    steps = sorted(real.table("spectra")["step"].unique().tolist())
    slider = page.find("figure[data-chart='spectra-f'] input[type=range]")
    page.run("arguments[0].focus()", slider)
    page.press(Keys.END)
    page.settle()
    drawn = [spectrum(page)]
    for _ in steps[1:]:
        page.press(Keys.ARROW_LEFT)
        page.settle()
        drawn.append(spectrum(page))
    page.press(Keys.END)
    page.settle()
    assert spectrum(page) == drawn[0]
    titles, lines = zip(*drawn, strict=True)
    assert list(titles) == [f"step {step:,}" for step in reversed(steps)]
    assert len(set(lines)) == len(steps)
    assert all(path.startswith("M") for path in lines)


def test_a_mark_shows_its_step_its_value_and_its_interval(page, real):
    figure = chart(page, "emergence-emergence")
    rows = real.table("emergence")
    chosen = (rows["method"] == "exact") & (rows["variant"] == "default") & (rows["part"] == "all")
    (last,) = rows[chosen & (rows["model"] == "stdlib-neox-233k") & (rows["step"] == 1000)].to_dict("records")
    tips = []
    for mark in page.run(POINTS, figure):
        page.point_at(mark)
        page.settle()
        tips.append(dict(re.findall(r"(.+?)\t(.+)", page.run(TOOLTIP))))
    wanted = {"stdlib-neox-233k", "1,000", "whole network"}
    (tip,) = [tip for tip in tips if wanted <= set(tip.values())]
    shown = {float(text.replace("−", "-")) for text in tip.values() if re.fullmatch(r"[−\d.]+", text)}
    for column in ("emergence", "emergence_low", "emergence_high"):
        assert float(f"{last[column]:.4g}") in shown, (column, tip)
    assert page.run("return document.getElementById('vg-tooltip-element').checkVisibility({visibilityProperty: true})")


def test_a_click_in_a_legend_picks_out_a_model(page):
    figure = chart(page, "emergence-alpha0")
    lines = f"{LINES}.map((path) => Number(path.getAttribute('opacity') ?? 1))"
    before = page.run(lines, figure)
    assert set(before) == {max(before)}
    names = page.run("return [...arguments[0].querySelectorAll('.role-legend-label text')]", figure)
    (name,) = [name for name in names if name.text == "stdlib-neox-67k"]
    page.point_at(name)
    name.click()
    page.settle()
    picked = page.run(lines, figure)
    assert len(picked) == len(before)
    assert sorted(picked)[: len(picked) // 2] == [min(picked)] * (len(picked) // 2)
    assert min(picked) < max(picked) / 2
    name.click()
    page.settle()
    assert page.run(lines, figure) == before


# --- tables --------------------------------------------------------------------------------------------------------------
def test_tables_sort_by_click_and_by_keyboard_and_numbers_as_numbers(page, real):
    from selenium.webdriver.common.keys import Keys

    rows = real.table("spectra")
    page.choose_table("spectra")
    page.headers()["q"].click()
    page.until(SORTED, "ascending")
    values = [float(row["q"]) for row in page.rows()]
    assert values[0] == rows["q"].min() == -3
    assert increasing(values)
    assert len(set(values)) > 2
    page.run("arguments[0].focus()", page.headers()["q"])
    page.press(Keys.ENTER)
    page.until(SORTED, "descending")
    values = [float(row["q"]) for row in page.rows()]
    assert values[0] == rows["q"].max() == 3
    assert increasing(values[::-1])
    page.choose_table("weights")
    page.headers()["matrix"].click()
    page.until(SORTED, "ascending")
    names = [row["matrix"] for row in page.rows()]
    assert increasing(names)
    assert names[0] == min(real.table("weights")["matrix"]) < names[-1]


def test_tables_filter_by_column_and_in_all_columns(page, real):
    rows = real.table("spectra")
    page.choose_table("spectra")
    revision = page.show("#table-view input[aria-label='Filter revision']")
    revision.send_keys("step0")
    expected = rows[rows["revision"].str.contains("step0")]
    page.until(SAYS, f"of {len(expected)} (")
    assert {row["revision"] for row in page.rows()} == {"step0"}
    page.find("#table-view .dt-search input").send_keys("233k")
    expected = expected[expected["model"].str.contains("233k")]
    assert 0 < len(expected) < len(rows)
    page.until(SAYS, f"of {len(expected)} (")
    assert {row["model"] for row in page.rows()} == {"stdlib-neox-233k"}
    revision.send_keys("no such revision")
    page.until(SAYS, "No rows")
    assert page.texts("#table-view tbody td") == ["No row matches."]


def test_a_download_is_the_whole_table(page, real, tmp_path):
    page.downloads_to(tmp_path)
    for name in ("emergence", "weights"):
        page.show(f"button.download[data-name={name}]").click()
        text = downloaded(tmp_path / f"{name}.csv").decode()
        rows = real.table(name)
        labels = rows["model"].to_numpy()  # no two models of this run have one name
        expected = rows.copy()
        expected.insert(0, "label", labels)
        expected.insert(0, "run", real.run.name)
        assert text == expected.to_csv(index=False, lineterminator="\n")
        again = pd.read_csv(io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""])
        for column in rows.select_dtypes("float64"):
            pd.testing.assert_series_equal(again[column].astype("float64"), rows[column], check_exact=True)


def downloaded(file):
    """A file's content, once the browser has written it."""
    end = time.monotonic() + 30
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < end, f"{file} was not written; there is {list(file.parent.iterdir())}"
        time.sleep(0.02)
    return file.read_bytes()


def test_a_chart_is_saved_as_svg(page, tmp_path):
    page.downloads_to(tmp_path)
    chart(page, "emergence-emergence")
    page.find("figure[data-chart='emergence-emergence'] .save").click()
    content = downloaded(tmp_path / "emergence-emergence.svg")
    root = ElementTree.fromstring(content)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert len(list(root.iter(f"{space}path"))) > 10
    assert "degree of emergence E" in [text.text for text in root.iter(f"{space}text")]
    assert b"var(" not in content
    assert next(root.iter(f"{space}rect")).attrib["fill"] == "#ffffff"


# --- how it looks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1200, 360])
def test_nothing_overflows(page, width):
    page.look(width=width)
    page.choose_table("weights")
    assert page.run(WIDTHS) == [width, width]
    assert page.run(BEYOND) == []
    assert page.run(CUT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_borders_have_contrast(page, scheme):
    page.look(prefers_color_scheme=scheme)
    page.choose_table("emergence", 10)
    chart(page, "emergence-emergence")
    ground = page.run("return getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", ground)[:3])
    assert (min(red, green, blue) > 240) if scheme == "light" else (max(red, green, blue) < 40)
    texts = [Shown(**text) for text in page.run(TEXTS)]
    assert len(texts) > 500
    pale = {f"{text.text} in {text.where}: {text.contrast:.2f}" for text in texts if text.contrast < text.least}
    assert pale == set()
    borders = [Shown(**border) for border in page.run(BORDERS)]
    assert len(borders) > 30
    assert [
        f"{border.text} in {border.where}: {border.contrast:.2f}" for border in borders if border.contrast < BORDER
    ] == []


def test_nothing_moves_by_itself_where_the_reader_asked_for_that(page):
    moving = "return [getComputedStyle(document.documentElement).scrollBehavior, document.getAnimations().length]"
    assert page.run(moving) == ["smooth", 0]
    page.look(prefers_reduced_motion="reduce")
    assert page.run(moving) == ["auto", 0]


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product((1280, 360), ("light", "dark"))))
def test_pictures_are_kept(page, screenshots, capsys, width, scheme):
    page.look(width=width, prefers_color_scheme=scheme)
    page.choose_table("emergence", 10)
    file = screenshots / f"report-{'wide' if width > 1000 else 'narrow'}-{scheme}.png"
    file.unlink(missing_ok=True)
    page.picture(file)
    header = file.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == width
    assert int.from_bytes(header[20:24], "big") > 5000
    with capsys.disabled():
        print(f"\nscreenshot: {file}")


# --- without a mouse, without a screen -----------------------------------------------------------------------------------
def test_the_keyboard_reaches_everything_and_the_focus_is_seen(page):
    from selenium.webdriver.common.keys import Keys

    page.choose_table("emergence", 10)
    page.to_top()
    expected = page.run(DESCRIBED + TABBABLE)
    assert len(expected) > 60
    page.run(
        "document.body.tabIndex = -1; document.body.focus({preventScroll: true}); document.body.removeAttribute('tabindex')"
    )
    page.run(WATCH_FOCUS)
    try:
        page.press(*[Keys.TAB] * len(expected))
        stops = page.run("return window.stops")
    finally:
        page.run("document.removeEventListener('focusin', window.watchFocus)")
    assert [stop["what"] for stop in stops] == expected
    assert stops[0]["what"].endswith("Skip to the report")
    for stop in stops:
        assert stop["visible"], stop
        assert stop["outline"] == "solid", stop
        assert stop["width"] >= 2, stop


def test_the_first_link_skips_to_the_report(page):
    from selenium.webdriver.common.keys import Keys

    page.run("document.querySelector('.skip').focus()")
    assert page.run("return document.querySelector('.skip').getBoundingClientRect().left") >= 0
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main"


def test_headings_are_in_order_and_everything_has_a_name(page):
    page.choose_table("emergence", 10)
    levels = page.run(
        "return [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    told = page.accessible()
    assert {"button", "combobox", "slider", "searchbox", "link", "image"} <= {role for role, _ in told}
    assert [role for role, name in told if role in NAMED and not name.strip()] == []
    saves = [name for role, name in told if role == "button" and name.startswith("Save as SVG")]
    assert len(set(saves)) == len(saves) == len(page.run(FIGURES))
    drawings = [name for role, name in told if role == "image"]
    assert len(drawings) == len(page.run(FIGURES))
    assert any(name.startswith("Degree of emergence E over training. stdlib-neox-67k") for name in drawings)
    landmarks = [(role, name) for role, name in told if role in ("main", "navigation")]
    assert [role for role, _ in landmarks].count("main") == 1
    assert landmarks[0] == ("navigation", "Contents")


# --- on paper ------------------------------------------------------------------------------------------------------------
def test_it_prints_with_every_chart_and_without_what_needs_a_screen(page):
    marks = sum(count for _, count in page.run(MARKS).values())
    page.run(
        "window.details = [];"
        "const look = () => { details = [...document.querySelectorAll('details')].map((element) => element.open) };"
        "addEventListener('beforeprint', look, {once: true})"
    )
    pdf = base64.b64decode(page.cdp("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert painted(pdf) > marks
    assert set(page.run("return window.details")) == {True}
    page.media("print")
    seen = (
        "const seen = [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility());"
        "return seen.filter((element) => element.getBoundingClientRect().height > 20).length"
    )
    assert page.run(seen, "figure svg") == len(page.run(FIGURES))
    assert page.run(seen, ".contents, .viewer, .save, .controls, .skip, .download") == 0


def test_the_print_button_waits_for_all_charts(opened, one_checkpoint):
    opened.look()
    opened.load(one_checkpoint.page)
    opened.run(
        "window.print = () => { window.atPrint = [...document.querySelectorAll('figure')].map((f) => f.dataset.state) };"
        "document.getElementById('print').click()"
    )
    states = opened.until("return window.atPrint")
    assert len(states) > 3
    assert set(states) == {"drawn"}
    assert opened.messages() == []


# --- bad input -----------------------------------------------------------------------------------------------------------
def test_names_that_would_do_harm_are_shown_as_they_stand(hostile_page):
    page = hostile_page
    assert page.run("return window.alerts") == []
    assert page.run("return document.querySelectorAll('img, svg[onload], svg script, td svg').length") == 0
    assert page.run("return [...document.scripts].filter((s) => !s.type).length") == 3
    assert {state for state, _ in page.run(MARKS).values()} == {"drawn"}
    headings = page.texts(".verdict h3")
    assert len(headings) == 3
    assert all(HOSTILE in heading for heading in headings)
    assert page.texts("h1") == [f"{HOSTILE_RUN}, {HOSTILE_RUN} 2"]
    assert HOSTILE_TEXT in page.texts("#problems td.message")
    assert any(HOSTILE_TEXT in text for text in page.texts("#parameters code"))
    assert [text for text in page.texts("figure select option") if HOSTILE in text]
    labels = page.texts("[data-chart='emergence-emergence'] .role-legend-label text")
    assert [label for label in labels if label.startswith(HOSTILE[:12])]
    assert page.run("return document.title") == f"{HOSTILE_RUN}, {HOSTILE_RUN} 2 · ninscope report"


def test_tables_show_such_names_and_filter_by_them(hostile_page):
    page = hostile_page
    page.choose_table("checkpoints")
    assert HOSTILE_TEXT in [row["message"] for row in page.rows()]
    box = page.show("#table-view input[aria-label='Filter message']")
    box.send_keys("</script>")
    page.until("return document.querySelectorAll('#table-view tbody tr').length === 2")
    assert {row["message"] for row in page.rows()} == {HOSTILE_TEXT}
    assert page.run("return document.querySelectorAll('#table-view tbody *:not(tr, td)').length") == 0


def test_such_names_in_what_a_mark_shows_are_text(hostile_page):
    page = hostile_page
    figure = chart(page, "emergence-emergence")
    for mark in page.run(POINTS, figure)[:2]:
        page.point_at(mark)
        page.settle()
        assert HOSTILE in page.run(TOOLTIP)
    assert page.run("return document.querySelectorAll('#vg-tooltip-element :is(img, script, svg)').length") == 0


def test_long_names_overflow_no_telephone(hostile_page):
    page = hostile_page
    page.choose_table("emergence")
    assert page.run(WIDTHS) == [360, 360]
    assert page.run(BEYOND) == []
    assert page.run(CUT) == []
    plots = page.run(PLOTS)
    assert len(plots) == len(page.run(FIGURES))
    assert {name: width for name, width in plots.items() if width < 100} == {}


@pytest.mark.parametrize("small_page", ["one_checkpoint"], indirect=True)
def test_one_checkpoint_is_enough(small_page):
    marks = small_page.run(MARKS)
    assert {"emergence-emergence", "emergence-alpha0", "spectra-f", "degrees-layer"} <= set(marks)
    assert {name: drawn for name, drawn in marks.items() if drawn[0] != "drawn" or drawn[1] < 1} == {}
    assert small_page.run(BEYOND) == []


@pytest.mark.parametrize("small_page", ["without_emergence"], indirect=True)
def test_a_run_without_rows_of_e_has_a_page(small_page):
    marks = small_page.run(MARKS)
    assert not [name for name in marks if name.startswith("emergence")]
    assert {name: drawn for name, drawn in marks.items() if drawn[0] != "drawn" or drawn[1] < 1} == {}
    assert len(small_page.texts(".headline")) == 2
    small_page.choose_table("benchmarks")
    assert len(small_page.rows()) == 16
