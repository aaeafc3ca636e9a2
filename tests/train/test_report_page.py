"""The page: nothing from outside becomes markup, nothing is asked of anybody, for any number of classes."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from train.report_clips import ExplainedClip
from train.report_contents import confusion_section
from train.report_page import Report, render

NASTY = '<b>&"\n</style><script src="https://evil.example/x.js"></script>\udcff{{ 7 * 7 }}\x1b[2J[red]\u202e'
ASKS = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """Tags, what they ask for, and the text, as a browser sees them."""

    VOID = ("meta", "img", "path", "use", "br", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.asked: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [value or "" for name, value in attrs if name in ASKS]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_report(num_classes: int, text: str = "plain") -> Report:
    names = tuple(f"{text} {number}" for number in range(num_classes))
    matrix = np.random.default_rng(0).integers(0, 5, (num_classes, num_classes))
    return Report(
        title=text,
        run_dir=text,
        unfinished=text,
        cards=[("50%", text)],
        results_header=("method", "top-1"),
        results=[(text, "50%")],
        trained=[("method", text)],
        charts={"losses": '<svg xmlns="http://www.w3.org/2000/svg"><path d="M 0 0"/></svg>'},
        confusion=confusion_section(matrix, names),
        no_predictions="",
        sheet=b"jpeg",
        no_sheet="",
        explained=[ExplainedClip(text, text, names[0], 0.5, (1, 7, 7), b"jpeg")],
        no_explained="",
        speed_header=("", text),
        speed=[("clips/s", "9.0")],
        left_out={text: text},
        command=text,
        environment=[("CPU", text)],
        config=text,
    )


@pytest.mark.parametrize("num_classes", [2, 101, 400])
def test_page_is_whole_and_asks_nobody_for_anything(num_classes: int) -> None:
    html = render(make_report(num_classes))
    page = Page(html)
    assert page.open == []
    assert page.tags.count("section") == 9
    assert "script" not in page.tags
    assert "link" not in page.tags
    anchors = [asked for asked in page.asked if asked.startswith("#")]
    assert {anchor[1:] for anchor in anchors} <= set(page.ids)
    assert all(asked.startswith(("data:image/", "#")) for asked in page.asked)
    assert "url(" not in html
    assert "@import" not in html
    # A table of the confusions where it can be read, a picture otherwise; of the hardest classes never more than some.
    assert sum(asked.startswith("data:image/png") for asked in page.asked) == (num_classes > 25)
    assert len(html) < 1_000_000


def test_all_text_stays_text() -> None:
    plain, nasty = Page(render(make_report(2))), Page(render(make_report(2, NASTY)))
    assert nasty.tags == plain.tags
    assert nasty.asked == plain.asked
    shown = NASTY.replace("\udcff", "\ufffd").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert nasty.text.count(shown) >= plain.text.count("plain") - 1  # the title of the window is not counted as text
    assert "49" not in nasty.text
    assert not {"\x1b", "\u202e"} & set(render(make_report(2, NASTY)))


def test_missing_parts_say_why() -> None:
    report = replace(
        make_report(2),
        confusion=None,
        no_predictions="<no predictions>",
        sheet=None,
        no_sheet="<no sheet>",
        explained=[],
        no_explained="<no videos>",
        results=[],
        cards=[],
        charts={},
        speed=[],
        left_out={},
    )
    text = Page(render(report)).text
    for reason in ("<no predictions>", "<no sheet>", "<no videos>", "not finished", "No step", "None went bad"):
        assert reason in text


def test_page_is_the_same_each_time() -> None:
    assert render(make_report(3)) == render(make_report(3))
