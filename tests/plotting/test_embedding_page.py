"""The interactive map: one file without a network, in a headless browser where there is one."""

import re
import sys
from html import unescape

import numpy as np
import pytest

from sknn_deep.plotting import EmbeddingDisplay
from sknn_deep.plotting._labels import GREY

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a & b"]
# Where on the screen the page draws the point of a row.
POINT = """row => {
    const {xaxis, yaxis} = map._fullLayout, box = map.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.d2p(x[row]), box.y + yaxis._offset + yaxis.d2p(y[row])];
}"""
# The edges of what the page shows, as left, top, right and bottom.
FRAMES = """() => {
    const edges = element => {
        const {left, top, right, bottom} = element.getBoundingClientRect();
        return [left, top, right, bottom];
    };
    const {l, t, w, h} = map._fullLayout._size, [left, top] = edges(map);
    // plotly's frame of the legend, which is not drawn, is wider than the entries and the bar
    const inLegend = map.querySelectorAll(".legendtext, .legend .scrollbar");
    const frame = edges(map.querySelector(".legend .bg"));
    frame[2] = Math.max(...Array.from(inLegend, element => edges(element)[2]));
    const {scrollWidth, scrollHeight} = document.documentElement;
    return {
        scrolled: [scrollWidth, scrollHeight],
        header: edges(document.querySelector("header")),
        map: edges(map),
        drawing: edges(map.querySelector(".main-svg")),
        legend: frame,
        plot: [left + l, top + t, left + l + w, top + t + h],
    };
}"""
BRIGHTNESS = """() => {
    const canvas = document.querySelector("#hovered canvas"), {width, height} = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, width, height);
    return Array.from({length: data.length / 4}, (_, i) => data[4 * i]);
}"""


def _grid(n_columns, n_rows):
    """Return points far enough apart to be hit one by one."""
    return np.array([(i, j) for i in range(n_columns) for j in range(n_rows)], dtype=float)


def test_page_of_a_map_loads_nothing_from_elsewhere(digits, tmp_path):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=digits.X[:, 20:22], y=digits.y)
    path = display.to_html(tmp_path / "map.html", images=digits.X, title="A & B")
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", html)
    assert "<title>A &amp; B</title>" in html


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    pytest.importorskip("plotly")
    page = EmbeddingDisplay(embedding=_grid(4, 3), y=[*HOSTILE] * 4).to_html(title='"quoted"')
    frame = page._repr_html_()
    assert page.html.startswith("<!doctype html>")
    # nothing of the page ends the attribute that it stands in, or is markup of the notebook
    frame_of_page = (
        r'^<iframe srcdoc="([^"<>]*)" sandbox="allow-scripts" '
        r"[^<>]*></iframe>$"
    )
    (document,) = re.findall(frame_of_page, frame)
    assert unescape(document) == page.html


def test_page_refuses_images_of_another_number():
    display = EmbeddingDisplay(embedding=_grid(4, 3))
    with pytest.raises(ValueError, match=re.escape("inconsistent numbers of samples: [12, 5]")):
        display.to_html("map.html", images=np.zeros((5, 9)))


def test_missing_plotly_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'sknn_deep[interactive]'")):
        EmbeddingDisplay(embedding=_grid(4, 3)).to_html("map.html")


# ---- in a browser ----


class Page:
    """A map in a tab, and everything it complained about or asked the network for."""

    def __init__(self, tab, path, *, width=1000, height=700):
        self.view = tab
        self.complaints = []
        self._notes = {
            "console": self._note_message,
            "pageerror": lambda error: self.complaints.append(str(error)),
            "dialog": self._note_dialog,
            "request": self._note_request,
        }
        for event, note in self._notes.items():
            tab.on(event, note)
        tab.set_viewport_size({"width": width, "height": height})
        self.view.goto(path.resolve().as_uri())
        self.view.wait_for_selector("body[data-ready=yes]")

    def close(self):
        """Leave the page, which must not have complained."""
        self.view.evaluate("new Promise(requestAnimationFrame)")  # what it says comes before
        for event, note in self._notes.items():
            self.view.remove_listener(event, note)
        assert self.complaints == []

    def _note_message(self, message):
        # that drawing without a graphics card takes time is no fault of the page
        if "GL Driver Message (OpenGL, Performance" not in message.text:
            self.complaints.append(message.text)

    def _note_dialog(self, dialog):
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _note_request(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def hover(self, row):
        """Move the pointer over a point and return what the page says of it."""
        x, y = self.view.evaluate(POINT, row)
        self.view.mouse.move(x - 40, y - 40)
        self.view.mouse.move(x, y)
        self.view.wait_for_selector("#hovered", state="visible")
        return self.view.inner_text("#hovered figcaption")

    def legend(self):
        """Return the names in the legend."""
        return [entry.text_content() for entry in self.view.query_selector_all(".legendtext")]

    def click(self, entry, **options):
        """Click an entry of the legend, and wait until another click is no double click."""
        self.view.locator(".legendtoggle").nth(entry).click(**options)
        self.view.wait_for_timeout(600)

    def wait_for_shown(self, expected):
        """Wait until plotly shows the classes that are expected."""
        shown = "map._fullData.map(trace => trace.visible === true)"
        self.view.wait_for_function(f"String({shown}) === '{','.join(map(str, expected)).lower()}'")


@pytest.fixture(scope="module")
def tab(browser):
    """Offer one tab for all maps: a new one takes seconds until it draws."""
    tab = browser.new_page()
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Offer one path for all maps: of another the browser compiles plotly anew."""
    return tmp_path_factory.mktemp("page") / "map.html"


@pytest.fixture
def page(tab, path, digits):
    """Offer a page of sixty digits on a grid, with the images behind them."""
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(10, 6), y=digits.y[:60])
    assert display.to_html(path, images=digits.X[:60], title="A & B") == path
    page = Page(tab, path)
    yield page
    page.close()


@pytest.mark.slow
def test_pointer_shows_the_digit_below_it(page, digits):
    for row in (0, 17, 59):
        assert page.hover(row) == f"{digits.y[row]}, row {row}"
        pixels = 1 - np.array(page.view.evaluate(BRIGHTNESS)) / 255
        np.testing.assert_allclose(pixels, digits.X[row], atol=1 / 255)


@pytest.mark.slow
def test_pointer_beside_the_points_shows_nothing(page):
    page.hover(17)
    page.view.mouse.move(500, 5)
    page.view.wait_for_selector("#hovered", state="hidden")


@pytest.mark.slow
def test_click_in_the_legend_hides_a_class_and_shows_it_again(page, digits):
    names = page.legend()
    assert names == [str(digit) for digit in np.unique(digits.y[:60])]
    row = int(np.flatnonzero(digits.y[:60] == int(names[3]))[0])
    page.hover(row)
    page.click(3)
    page.wait_for_shown([i != 3 for i in range(len(names))])
    x, y = page.view.evaluate(POINT, row)
    page.view.mouse.move(x + 1, y + 1)
    page.view.wait_for_selector("#hovered", state="hidden")
    page.click(3)
    page.wait_for_shown([True] * len(names))
    assert page.hover(row).startswith(f"{names[3]},")


@pytest.mark.slow
def test_double_click_in_the_legend_shows_a_class_alone_and_another_shows_all(page):
    n_classes = len(page.legend())
    page.click(2, click_count=2)
    page.wait_for_shown([i == 2 for i in range(n_classes)])
    page.click(2, click_count=2)
    page.wait_for_shown([True] * n_classes)


@pytest.mark.slow
def test_wheel_zooms_and_a_drag_moves(page):
    def limits():
        """Return the limits of the map once they have come to rest: a busy machine lags behind."""
        before, now = None, page.view.evaluate("map._fullLayout.xaxis.range")
        while now != before:
            page.view.wait_for_timeout(300)
            before, now = now, page.view.evaluate("map._fullLayout.xaxis.range")
        return now

    low, high = limits()
    page.view.mouse.move(500, 400)
    page.view.mouse.wheel(0, -300)
    page.view.wait_for_function(f"map._fullLayout.xaxis.range[0] > {low}")
    zoomed = limits()
    assert zoomed[1] - zoomed[0] < high - low
    page.view.mouse.down()
    page.view.mouse.move(600, 400, steps=4)
    page.view.mouse.up()
    page.view.wait_for_function(f"map._fullLayout.xaxis.range[0] < {zoomed[0]}")
    moved = limits()
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])


@pytest.mark.slow
def test_names_are_text_and_never_markup(tab, path):
    pytest.importorskip("plotly")
    y = np.array(HOSTILE * 4)
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=y)
    page = Page(tab, display.to_html(path, title=HOSTILE[0]))
    assert page.legend() == sorted(HOSTILE)
    assert page.view.title() == HOSTILE[0]
    assert page.view.inner_text("h1") == HOSTILE[0]
    assert page.hover(1) == f"{y[1]}, row 1"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1366, 1920])
@pytest.mark.parametrize("n_classes", [3, 40])
def test_the_map_and_its_legend_fit_the_window(tab, path, width, n_classes):
    pytest.importorskip("plotly")
    y = [None, *[f"class {i % n_classes:02}" for i in range(119)]]
    display = EmbeddingDisplay(embedding=_grid(20, 6), y=y)
    page = Page(tab, display.to_html(path), width=width, height=800)
    frames = page.view.evaluate(FRAMES)
    assert frames["scrolled"] == [width, 800]
    for name in ("drawing", "plot", "legend"):
        left, top, right, bottom = frames[name]
        assert left >= 0
        assert top >= frames["header"][3] - 1
        assert right <= width + 1
        assert bottom <= 801
    assert frames["drawing"] == pytest.approx(frames["map"], abs=1)
    left, top, right, bottom = frames["plot"]
    assert right - left > 0.75 * width
    assert bottom - top > 400
    if width == 390:
        assert frames["legend"][1] >= bottom - 1  # below the map
    else:
        assert frames["legend"][0] >= right - 1  # beside it
    page.close()


@pytest.mark.slow
def test_a_window_that_becomes_narrow_has_its_legend_below_the_map(page):
    before = page.view.evaluate(FRAMES)
    assert before["legend"][0] >= before["plot"][2] - 1
    page.view.set_viewport_size({"width": 390, "height": 700})
    page.view.wait_for_function(f"({FRAMES})().legend[1] >= ({FRAMES})().plot[3] - 1")
    page.view.wait_for_function(f"Math.abs(({FRAMES})().drawing[3] - 700) <= 1")
    assert page.view.evaluate(FRAMES)["legend"][3] <= 701


@pytest.mark.slow
def test_unlabelled_points_are_grey_and_last_in_the_legend(tab, path):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=["a", None, "b"] * 4)
    page = Page(tab, display.to_html(path))
    assert page.legend() == ["a", "b", "unlabelled"]
    first = page.view.evaluate("[map.data[0].name, map.data[0].marker.color]")  # lies beneath
    assert first == ["unlabelled", GREY]
    assert page.hover(1) == "unlabelled, row 1"
    assert page.hover(2) == "b, row 2"
    page.close()


@pytest.mark.slow
def test_all_points_can_be_unlabelled(tab, path):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=[None] * 12)
    page = Page(tab, display.to_html(path))
    assert page.legend() == ["unlabelled"]
    assert page.view.query_selector(".colorbar") is None
    assert page.hover(7) == "unlabelled, row 7"
    page.close()


@pytest.mark.slow
def test_points_without_a_number_are_grey(tab, path):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=[0.5, np.nan, 2.5] * 4)
    page = Page(tab, display.to_html(path))
    assert page.legend() == ["unlabelled"]
    assert page.view.query_selector(".colorbar") is not None
    assert page.hover(4) == "unlabelled, row 4"
    assert page.hover(5) == "2.500, row 5"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("y", [None, np.linspace(0, 1, 12)])
def test_maps_without_classes_have_no_filter(tab, path, y):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=y)
    page = Page(tab, display.to_html(path))
    assert page.legend() == []
    assert "Click a class" not in page.view.inner_text("header")
    assert page.hover(5) == ("row 5" if y is None else f"{y[5]:#.4g}, row 5")
    assert page.view.is_hidden("#hovered canvas")
    page.close()


@pytest.mark.slow
def test_the_page_hardly_computes_while_seventy_thousand_points_move(tab, path):
    # without a graphics card the drawing is slow whatever the page does: its own time is measured
    pytest.importorskip("plotly")
    rng = np.random.default_rng(0)
    display = EmbeddingDisplay(
        embedding=rng.normal(size=(70_000, 2)), y=rng.integers(0, 10, 70_000)
    )
    images = rng.integers(0, 2, (70_000, 16))
    page = Page(tab, display.to_html(path, images=images))
    profiler = page.view.context.new_cdp_session(page.view)
    profiler.send("Performance.enable")

    def seconds():
        metrics = profiler.send("Performance.getMetrics")["metrics"]
        return next(entry["value"] for entry in metrics if entry["name"] == "ScriptDuration")

    left = page.view.evaluate("map._fullLayout.xaxis.range[0]")
    page.view.mouse.move(400, 400)
    page.view.mouse.down()
    before = seconds()
    for i in range(20):
        page.view.mouse.move(400 + 10 * i, 400)
    page.view.mouse.up()
    page.view.wait_for_function(f"map._fullLayout.xaxis.range[0] < {left - 1}")
    assert (seconds() - before) / 20 < 0.05
    page.close()
