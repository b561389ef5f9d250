"""report.html as it is written: nothing runs but its own scripts, nothing is left out silently, and a reader finds the way."""

import base64
import hashlib
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import altair as alt
import numpy as np
import pandas as pd
import pytest
from page_reader import PageReader

from ninscope.report.page import document
from ninscope.report.page.contents import Contents, RunFacts
from ninscope.report.page.document import page_html
from ninscope.report.page.parts import Chart, PagePart
from ninscope.report.page.svg_files import chart_svgs, for_xml
from ninscope.report.page.verdict import ModelVerdict

HOSTILE = (
    """</script><script>alert(1)</script><img src=x onerror=alert(2)> "quoted" 'single' & ${1} {{ 7 * 7 }} <!-- """
)
STEPS = (0, 1, 2)


def rows(label="m"):
    keys = [
        {"run": "r", "label": label, "suite": "s", "model": label, "revision": f"step{n}", "step": n} for n in STEPS
    ]
    return pd.DataFrame(keys)


def tables(label="m", message=""):
    checkpoints = rows(label).assign(status=["ok", "corrupt", "ok"], message=["", message or "no header", ""])
    emergence = rows(label).assign(emergence=[0.0, math.nan, 1 / 3], count=[1, 2, 3], method="exact")
    return {"emergence": emergence, "checkpoints": checkpoints, "scaling": checkpoints.iloc[:0]}


def line(frame, **other):
    return alt.Chart(frame, width="container").mark_line().encode(x="step:Q", y="emergence:Q", color="label:N", **other)


def part(*charts, name="e", topic="emergence", text=("Text.",), used=("emergence",)):
    made = tuple(
        Chart(f"c{number}", f"Chart {number}", chart, f"It rises {number}.") for number, chart in enumerate(charts)
    )
    return PagePart(name, f"Part {name}", topic, text, made, used)


def contents(held=None, parts=None, label="m", run="r", **facts):
    held = tables(label) if held is None else held
    parts = [part(line(held["emergence"]))] if parts is None else parts
    verdict = ModelVerdict(label, f"E of {label} rises.", (f"{label} moves.",), (f"{label} is small.",))
    runs = [
        RunFacts(
            run, facts.get("notes", ()), facts.get("parameters", "[asked]\n"), facts.get("versions", {"numpy": "2"})
        )
    ]
    return Contents(runs, [verdict], parts, held, {name: f"runs/r/tables/{name}.parquet" for name in held}, "0.9")


@pytest.fixture(scope="module")
def page():
    return PageReader(page_html(contents()).content.decode())


# --- what may run --------------------------------------------------------------------------------------------------------
def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_the_page_s_own_scripts_and_styles_by_their_digests_and_nothing_else(page):
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.attributes["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split(" ") == [digest(script.text) for script in page.scripts]
    assert rules["style-src"].split(" ") == [digest(style.text) for style in page.all("style")]
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")


def test_the_policy_stands_before_what_it_concerns(page):
    order = [e for e in page.elements if e.tag in ("script", "style", "meta")]
    assert order[1].attributes.get("http-equiv") == "Content-Security-Policy"
    assert order[0].attributes == {"charset": "utf-8"}


def test_the_page_needs_no_other_file_and_holds_no_code_but_in_scripts(page):
    for element in page.elements:
        names = set(element.attributes)
        assert not names & {"src", "srcset", "action", "formaction", "style", "data", "background"}, element.tag
        assert not [name for name in names if name.startswith("on")], element.tag
        assert element.attributes.get("href", "#").startswith("#")
        assert element.tag not in ("link", "iframe", "object", "embed", "base", "img")
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_names_and_texts_that_look_like_html_stay_text():
    held = tables(HOSTILE, message=HOSTILE)
    text = part(line(held["emergence"]), text=(HOSTILE,))
    written = page_html(
        contents(held, [text], HOSTILE, HOSTILE, parameters=HOSTILE, notes=(HOSTILE,), versions={HOSTILE: HOSTILE})
    )
    plain = PageReader(page_html(contents()).content.decode())
    page = PageReader(written.content.decode())
    assert [e.text for e in page.scripts] == [e.text for e in plain.scripts]
    assert page.all("img") == []
    assert page.all("h1")[0].text == HOSTILE
    assert page.all("code")[0].text == HOSTILE
    assert page.all("p", role="note")[0].text == HOSTILE
    assert f"E of {HOSTILE} rises." in [e.text for e in page.all("p")]
    assert HOSTILE in [e.text for e in page.all("p")]
    assert page.all("td", class_="message")[0].text == HOSTILE
    (data,) = page.data_of("c0").values()
    assert data["label"] == [HOSTILE] * 3
    assert "{{ 7 * 7 }}" in page.by_id("main").text
    assert pd.read_csv(io.StringIO(page.table("emergence")))["label"].tolist() == [HOSTILE] * 3


def test_a_name_in_an_expression_is_refused():
    chart = line(tables(HOSTILE)["emergence"]).transform_filter(f"datum.label == {HOSTILE!r}")
    with pytest.raises(ValueError, match=r"the chart c0 has the name .* in an expression; compare a field of its data"):
        page_html(contents(tables(HOSTILE), [part(chart)], HOSTILE))


# --- what it holds -------------------------------------------------------------------------------------------------------
def test_two_charts_of_one_table_share_its_data(page):
    held = tables()
    same = held["emergence"].copy()
    written = page_html(contents(held, [part(line(held["emergence"]), line(same), alt.layer(line(same), line(same)))]))
    shared = PageReader(written.content.decode())
    names = [shared.charts[chart]["data"] for chart in ("c0", "c1", "c2")]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 1
    assert written.charts == 3


def test_data_of_charts_is_as_the_table_has_it_to_seven_digits(page):
    (data,) = page.data_of("c0").values()
    assert data["emergence"] == [0.0, None, 0.3333333]
    assert data["count"] == [1, 2, 3]
    assert [type(value) for value in data["count"]] == [int] * 3
    assert data["label"] == ["m"] * 3


def test_a_page_of_models_that_the_run_made_itself_does_not_speak_of_checkpoints_intervals():
    held = tables()
    held["checkpoints"] = held["checkpoints"].iloc[:0]
    own, others = (page_html(contents(each)).content.decode() for each in (held, tables()))
    for words in (
        "The weights of a model, read checkpoint by checkpoint",
        "They are not the spread between trainings.",
    ):
        assert words in others
        assert words not in own
    for words in ("Small models that the run made.", "What was measured is explained where it is shown."):
        assert words in own
        assert words not in others


def test_values_that_a_chart_writes_out_itself_are_held_like_tables():
    values = [{"step": 0, "emergence": 1.23456789, "label": "m"}, {"step": 1, "label": "m", "emergence": math.inf}]
    page = PageReader(page_html(contents(parts=[part(line(alt.Data(values=values)))])).content.decode())
    (data,) = page.data_of("c0").values()
    assert data == {"step": [0, 1], "emergence": [1.234568, None], "label": ["m", "m"]}
    assert "1.2345" not in page.stored("specs").decode()


def test_numbers_are_rounded_to_seven_digits():
    generator = np.random.default_rng(5)
    values = generator.standard_normal(2000) * 10.0 ** generator.integers(-30, 30, 2000)
    rounded = document_columns(pd.DataFrame({"x": [*values, 0.0, -0.0, 1e-310, 5e307]}))
    expected = [float(f"{value:.6e}") for value in values]
    np.testing.assert_allclose(rounded[:2000], expected, rtol=1e-15)
    assert rounded[2000:] == [0.0, -0.0, pytest.approx(1e-310), pytest.approx(5e307)]
    usual = [
        len(repr(abs(number)).replace(".", "").strip("0")) for number in rounded[:2000] if 1e-4 < abs(number) < 1e7
    ]
    assert max(usual) == 7


def document_columns(frame):
    from ninscope.report.page.embedding import columns_of_frame

    return columns_of_frame(frame)["x"]


def test_integers_and_words_that_are_missing_stay_missing():
    from ninscope.report.page.embedding import columns_of_frame

    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array(["x", None], "string"), "c": [True, False]})
    text = {"texts": ["x", None], "which": [0, 1]}
    assert columns_of_frame(frame) == {"a": [1, None], "b": text, "c": [True, False]}


def test_downloads_hold_whole_tables_with_every_digit(page):
    text = page.table("emergence")
    table = pd.read_csv(io.StringIO(text), float_precision="round_trip")
    pd.testing.assert_frame_equal(table, tables()["emergence"], check_exact=True, check_dtype=False)


def test_a_table_that_is_too_large_is_named_with_its_file(monkeypatch):
    held = tables()
    held["spectra"] = pd.concat([rows()] * 4000).assign(f=np.random.default_rng(0).random(12_000))
    most = len(page_html(contents()).content) + 520_000
    monkeypatch.setattr(document, "MOST_PAGE_BYTES", most)
    written = page_html(contents(held))
    page = PageReader(written.content.decode())
    assert len(written.content) < most
    assert (written.tables, written.left_out) == (("checkpoints", "emergence"), ("spectra",))
    assert page.all("button", data_name="spectra") == []
    assert "spectra" not in [e.attributes.get("data-name") for e in page.all("option")]
    (row,) = (e for e in page.all("tr") if e.text.startswith("spectra"))
    assert "12,000" in row.text
    assert re.search(
        r"Not in this page, which would be larger than [\d.]+ MB with it; it is in runs/r/tables/spectra", row.text
    )
    monkeypatch.setattr(document, "MOST_PAGE_BYTES", most + 2_000_000)
    assert page_html(contents(held)).tables == ("checkpoints", "emergence", "spectra")


def test_tables_without_rows_are_named(page):
    assert "Without rows here: scaling." in page.by_id("tables").text


def test_checkpoints_that_are_not_ok_are_listed_with_status_and_message(page):
    section = page.by_id("problems").text
    assert "1 of 3 checkpoints" in section
    assert [e.text for e in page.all("td", class_="message")] == ["no header"]
    held = tables()
    held["checkpoints"]["status"] = "ok"
    sound = PageReader(page_html(contents(held)).content.decode())
    assert "None: all 3 checkpoints are ok." in sound.by_id("problems").text


def test_the_same_contents_give_the_same_bytes():
    assert page_html(contents()).content == page_html(contents()).content


# --- finding the way -----------------------------------------------------------------------------------------------------
def test_headings_follow_each_other_without_a_step_left_out(page):
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(next_level <= level + 1 for level, next_level in pairwise(levels))


def test_the_verdict_stands_before_everything_else(page):
    titles = [e.text for e in page.all("h2")]
    expected = ["What the numbers say", "How to read this page", "Emergence", "Checkpoints that are not ok", "Tables"]
    assert titles == [*expected, "Parameters and versions"]


def test_reasons_of_more_than_two_models_are_folded_away(page):
    assert [e for e in page.all("details") if "m moves." in e.text] == []
    one = contents()
    verdicts = [ModelVerdict(label, f"E of {label} rises.", (f"{label} moves.",), ()) for label in "abc"]
    many = PageReader(page_html(replace(one, verdicts=verdicts)).content.decode())
    folded = [e for e in many.all("details") if "moves." in e.text]
    assert [re.sub(r"\s+", " ", e.text).strip() for e in folded] == [
        f"What this rests on: {n} {n} moves." for n in "abc"
    ]
    assert not any("open" in e.attributes for e in folded)
    assert all("E of" not in e.text for e in folded)


def test_of_very_many_models_warnings_are_folded_away_and_counted():
    one = contents()
    for count, folded in ((document._SHOWN_WARNINGS, False), (document._SHOWN_WARNINGS + 1, True)):
        many = PageReader(page_html(replace(one, verdicts=one.verdicts * count)).content.decode())
        details = [element for element in many.all("details") if "moves." in element.text]
        assert len(details) == count
        assert ["is small." in element.text for element in details] == [folded] * count
        assert ["and 1 warning" in element.text for element in details] == [folded] * count
        assert (
            len(
                [
                    element
                    for element in many.all("div")
                    if "is small." in element.text and element.attributes.get("class") == "warnings"
                ]
            )
            == count
        )


def test_every_reference_leads_somewhere(page):
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for name in ("aria-labelledby", "for"):
            assert element.attributes.get(name, ids[0]) in ids, element
        if element.tag == "a":
            assert element.attributes["href"][1:] in ids, element


def test_the_page_can_be_read_without_seeing_or_pointing(page):
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text == "r · ninscope report"
    first = next(e for e in page.elements if e.tag in ("a", "button", "select", "input"))
    assert (first.text, first.attributes["href"]) == ("Skip to the report", "#main")
    assert {e.tag for e in page.elements} >= {"header", "nav", "main", "section", "figure", "figcaption"}
    for box in (e for e in page.elements if "scroll" in e.attributes.get("class", "").split()):
        assert box.attributes["tabindex"] == "0"
        assert box.attributes.get("aria-label") or box.attributes.get("aria-labelledby")
    (drawing,) = (e for e in page.elements if e.attributes.get("class") == "canvas")
    assert (drawing.attributes["role"], drawing.attributes["aria-label"]) == ("img", "It rises 0.")
    assert "It rises 0." in page.all("figcaption")[0].text


def test_parts_stand_by_topic_and_name_their_tables():
    parts = [part(name="b", topic="spectra"), part(name="a", used=("emergence", "scaling", "unknown"))]
    page = PageReader(page_html(contents(parts=parts)).content.decode())
    assert [e.text for e in page.all("h3") if e.text.startswith("Part")] == ["Part a", "Part b"]
    assert "Drawn from emergence." in page.by_id("part-a").text


def test_parts_that_cannot_stand_on_one_page_are_refused():
    with pytest.raises(ValueError, match="the part e has the topic 'weather'; known: emergence, controls, spectra"):
        page_html(contents(parts=[part(topic="weather")]))
    with pytest.raises(ValueError, match="two parts of the page have the name e; rename one"):
        page_html(contents(parts=[part(), part(topic="spectra")]))
    chart = line(tables()["emergence"])
    with pytest.raises(ValueError, match="two charts of the page have the name c0; rename one"):
        page_html(contents(parts=[part(chart), part(chart, name="f")]))


# --- figures as files ----------------------------------------------------------------------------------------------------
def test_an_svg_file_holds_only_what_xml_can():
    assert for_xml({"name": ["a\x0bb", "c\td\n", 1.5, None]}) == {"name": ["a\ufffdb", "c\td\n", 1.5, None]}
    chart = line(rows("m\te").assign(emergence=[0.0, 0.5, 1.0]))
    (drawing,) = chart_svgs([part(chart)]).values()
    assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_every_chart_is_drawn_as_an_svg_file_in_plain_colours():
    first, again = (chart_svgs([part(line(tables()["emergence"]))]) for _ in range(2))
    assert list(first) == ["c0"]
    assert first == again
    root = ElementTree.fromstring(first["c0"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(root.get("width")) > 600
    assert b"var(" not in first["c0"]
    lines = [e.get("d") for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("stroke") == "#1a5aa5"]
    assert any(path and path.startswith("M0,") for path in lines)
