"""The interactive map: one file without a network, in a headless browser where there is one."""

import shutil

import numpy as np
import pytest

from sknn_deep.plotting import EmbeddingDisplay

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
]
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a & b"]
# Where on the screen the page draws the point of a row.
POINT = """row => {
    const {xaxis, yaxis} = map._fullLayout, box = map.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.d2p(x[row]), box.y + yaxis._offset + yaxis.d2p(y[row])];
}"""
BRIGHTNESS = """() => {
    const canvas = document.querySelector("#hovered canvas"), {width, height} = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, width, height);
    return Array.from({length: data.length / 4}, (_, i) => data[4 * i]);
}"""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


class Page:
    """A map in the browser, and everything it complained about or asked the network for."""

    def __init__(self, browser, path):
        self.view = browser.new_page(viewport={"width": 1000, "height": 700})
        self.complaints = []
        self.view.on("console", lambda message: self.complaints.append(message.text))
        self.view.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.view.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.view.on("request", self._note_request)
        self.view.goto(path.resolve().as_uri())
        self.view.wait_for_selector("body[data-ready=yes]")

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

    def buttons(self):
        return self.view.query_selector_all("#classes button")

    def shown(self):
        """Return for each class whether plotly shows it."""
        return self.view.evaluate("map.data.map(trace => trace.visible !== false)")


def _grid(n_columns, n_rows):
    """Return points far enough apart to be hit one by one."""
    return np.array([(i, j) for i in range(n_columns) for j in range(n_rows)], dtype=float)


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory):
    """Offer a page of sixty digits on a grid, with the images behind them."""
    pytest.importorskip("plotly")
    path = tmp_path_factory.mktemp("page") / "map.html"
    display = EmbeddingDisplay(embedding=_grid(10, 6), y=digits.y[:60])
    assert display.to_html(path, images=digits.X[:60], title="A & B") == path
    return path


@pytest.fixture
def page(browser, written):
    page = Page(browser, written)
    yield page
    page.view.close()
    assert page.complaints == []


def test_pointer_shows_the_digit_below_it(page, digits):
    for row in (0, 17, 59):
        assert page.hover(row) == f"{digits.y[row]}, row {row}"
        pixels = 1 - np.array(page.view.evaluate(BRIGHTNESS)) / 255
        np.testing.assert_allclose(pixels, digits.X[row], atol=1 / 255)


def test_pointer_beside_the_points_shows_nothing(page):
    page.hover(17)
    page.view.mouse.move(500, 5)
    page.view.wait_for_selector("#hovered", state="hidden")


def test_click_on_a_class_hides_its_points_and_shows_them_again(page, digits):
    names = [button.inner_text() for button in page.buttons()]
    assert names == [str(digit) for digit in np.unique(digits.y[:60])]
    third = page.buttons()[3]
    row = int(np.flatnonzero(digits.y[:60] == int(names[3]))[0])
    page.hover(row)
    third.click()
    assert page.shown() == [i != 3 for i in range(len(names))]
    assert third.get_attribute("aria-pressed") == "false"
    x, y = page.view.evaluate(POINT, row)
    page.view.mouse.move(x + 1, y + 1)
    page.view.wait_for_selector("#hovered", state="hidden")
    third.click()
    assert all(page.shown())
    assert page.hover(row).startswith(f"{names[3]},")


def test_double_click_on_a_class_shows_it_alone_and_another_shows_all(page):
    page.buttons()[2].dblclick()
    assert [i for i, is_shown in enumerate(page.shown()) if is_shown] == [2]
    page.buttons()[2].dblclick()
    assert all(page.shown())


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


def test_names_are_text_and_never_markup(browser, tmp_path):
    pytest.importorskip("plotly")
    y = np.array(HOSTILE * 4)
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=y)
    page = Page(browser, display.to_html(tmp_path / "map.html", title=HOSTILE[0]))
    assert [button.inner_text() for button in page.buttons()] == sorted(HOSTILE)
    assert page.view.title() == HOSTILE[0]
    assert page.view.inner_text("h1") == HOSTILE[0]
    assert page.hover(1) == f"{y[1]}, row 1"
    assert page.complaints == []
    page.view.close()


@pytest.mark.parametrize("y", [None, np.linspace(0, 1, 12)])
def test_maps_without_classes_have_no_filter(browser, tmp_path, y):
    pytest.importorskip("plotly")
    display = EmbeddingDisplay(embedding=_grid(4, 3), y=y)
    page = Page(browser, display.to_html(tmp_path / "map.html"))
    assert page.buttons() == []
    assert page.hover(5) == ("row 5" if y is None else f"{y[5]:#.4g}, row 5")
    assert page.view.is_hidden("#hovered canvas")
    assert page.complaints == []
    page.view.close()


def test_the_page_hardly_computes_while_seventy_thousand_points_move(browser, tmp_path):
    # without a graphics card the drawing is slow whatever the page does: its own time is measured
    pytest.importorskip("plotly")
    rng = np.random.default_rng(0)
    display = EmbeddingDisplay(
        embedding=rng.normal(size=(70_000, 2)), y=rng.integers(0, 10, 70_000)
    )
    images = rng.integers(0, 2, (70_000, 16))
    page = Page(browser, display.to_html(tmp_path / "map.html", images=images))
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
    assert page.complaints == []
    page.view.close()
