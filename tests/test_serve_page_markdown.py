"""Markdown on the chat page, in Debian's Chromium: its rendering, and that hostile text stays text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser import ChatPage, chromium
from tests.support.echo_server import echoing

pytestmark = pytest.mark.external(name="chromium")
SHOWN = "(box => (m.renderMarkdown(box, a[0]), box.innerHTML))(document.createElement('div'))"
HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg/onload=window.hit=1>",
    "<iframe srcdoc='<script>parent.hit = 1</script>'></iframe>",
    "[a](javascript:window.hit=1)",
    "[a](JaVaScRiPt:window.hit=1)",
    "[a](java\tscript:window.hit=1)",
    "[a](&#106;avascript:window.hit=1)",
    "[a](\u0001javascript:window.hit=1)",
    "[a](data:text/html,<script>1</script>)",
    "[a](vbscript:1) [b](file:///etc/passwd) [c](//evil.example) [d](/metrics) [e](blob:x)",
    "[a][1]\n\n[1]: javascript:window.hit=1",
    "<javascript:window.hit=1>",
    "![a](https://evil.example/steal.png)",
    "![a](javascript:window.hit=1)",
    "![a](x 'onerror=window.hit=1')",
    "[a](https://e.example/'onmouseover='window.hit=1 \"' onmouseover='window.hit=1\")",
    "```<img/src=x/onerror=window.hit=1>\n</code></pre><script>window.hit=1</script>\n```",
    "`</code><script>window.hit=1</script>`",
    "| <script>window.hit=1</script> |\n|---|\n| <img src=x onerror=window.hit=1> |",
    "<style>body { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'><base href=https://evil.example>",
    "<form action=https://evil.example><button>ok</button></form>",
    "# <b id=send>x</b>\n\n<a id=text name=text>",
]
ALLOWED = {
    "DIV", "P", "BLOCKQUOTE", "UL", "OL", "LI", "EM", "STRONG", "S", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "BR",
    "HR", "CODE", "PRE", "SPAN", "A", "BUTTON", "H2", "H3", "H4", "H5", "H6",
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[ChatPage]:
    with echoing() as server, chromium() as browser:
        page = ChatPage(browser, server.url)
        page.open()
        yield page
        assert page.faults() == []


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** ~~d~~ `e`", "<p>a <em>b</em> <strong>c</strong> <s>d</s> <code>e</code></p>"),
        ("one\ntwo", "<p>one<br>two</p>"),
        ("# a\n\n###### b", "<h2>a</h2>|<h6>b</h6>"),
        ("- a\n  1. b\n- c", '<ul><li>a<ol start="1"><li>b</li></ol></li><li>c</li></ul>'),
        ("3. a", '<ol start="3"><li>a</li></ol>'),
        ("> a\n\n---", "<blockquote><p>a</p></blockquote>|<hr>"),
        ("    x\n", "bar|<span></span>|x"),
        ("```py\nx < 1\n", "bar|<span>py</span>|x &lt; 1"),
        ("| a |\n|:-:|\n| b |", '<th style="text-align: center;">a</th>|<td style="text-align: center;">b</td>'),
        ("1 < 2 & 3 > 2 &amp; snake_case_name", "1 &lt; 2 &amp; 3 &gt; 2 &amp; snake_case_name"),
        ("see README.md, a@b.example", "<p>see README.md, a@b.example</p>"),
    ],
)
def test_markdown_is_rendered_to_dom_nodes(page: ChatPage, text: str, html: str) -> None:
    shown = page.imported("markdown.js", SHOWN, text)
    assert [part for part in html.split("|") if part not in shown] == [], shown


@pytest.mark.parametrize(
    "text", ["[a](https://a.example/?b=c#d)", "https://a.example/?b=c#d", "<https://a.example/?b=c#d>"]
)
def test_links_open_in_a_new_tab_without_a_referrer(page: ChatPage, text: str) -> None:
    shown = page.imported("markdown.js", SHOWN, text)
    for part in ('href="https://a.example/?b=c#d"', 'target="_blank"', 'rel="noopener noreferrer"'):
        assert part in shown


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_markdown_is_shown_as_text(page: ChatPage, text: str) -> None:
    page.js("document.getElementById('new').click(); document.getElementById('text').value = arguments[0]", text)
    page.click("#send")
    page.answered()
    nodes = page.js("""return [...document.querySelectorAll('.assistant .text *')].map(e =>
        [e.tagName, e.getAttribute('href'), e.getAttributeNames()])""")
    names = {name for _, _, attributes in nodes for name in attributes}
    assert {tag for tag, _, _ in nodes} <= ALLOWED
    assert all(href is None or href.startswith(("http://", "https://", "mailto:")) for _, href, _ in nodes)
    assert names <= {"class", "href", "title", "target", "rel", "type", "data-copy", "tabindex", "style", "start"}
    loaded = page.js("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(address.startswith(page.url) for address in loaded)
    assert page.js("return window.hit === undefined && document.getElementById('send').tagName === 'BUTTON'")


def test_code_block_is_copied_unchanged(page: ChatPage) -> None:
    page.js("document.getElementById('text').value = arguments[0]", "```py\nif a < b:\n    pass\n```")
    page.click("#send")
    page.answered()
    page.click(".code .copy")
    page.until(lambda: page.text(".code .copy") == "Copied")
    page.all("#text")[0].send_keys("\ue009v")
    assert page.value("#text") == "if a < b:\n    pass\n"
    page.fill("#text", "")


def test_reasoning_is_collapsed(page: ChatPage) -> None:
    assert page.ask("<think>first this</think>Then **that**") == "Then that"
    assert page.text(".thought summary") == "Thoughts" and not page.all(".thought div")
    page.click(".thought summary")
    assert page.text(".thought div") == "first this"


def test_markdown_can_be_switched_off(page: ChatPage) -> None:
    assert page.ask("**raw** `text`") == "raw text"
    page.click("#markdown")
    assert page.text(".assistant .text") == "**raw** `text`"
    page.click("#markdown")
    assert page.text(".assistant .text") == "raw text"


def test_finished_blocks_are_not_rerendered_while_streaming(page: ChatPage) -> None:
    grown = """(box => { m.renderMarkdown(box, a[0]); const first = [...box.children];
        m.renderMarkdown(box, a[1]); return [...box.children].map((node, i) => node === first[i]); })"""
    more = page.imported("markdown.js", grown + "(document.createElement('div'))", "a\n\nb\n\nc", "a\n\nb\n\nc d\n\ne")
    assert more == [True, True, False, False]
    late = page.imported(
        "markdown.js", grown + "(document.createElement('div'))", "[a]\n\nb", "[a]\n\nb\n\n[a]: https://x.example"
    )
    assert late == [False, False], "a link definition at the end changes the first block"


@pytest.mark.parametrize("piece", ["[", "*a ", "> ", "- ", "`", "<", "![](", "|a", "http://", "a\n\n"])
def test_very_long_markdown_is_rendered_in_bounded_time(page: ChatPage, piece: str) -> None:
    timed = "(box => { const t = performance.now(); m.renderMarkdown(box, a[0]); return performance.now() - t; })"
    assert (
        page.imported("markdown.js", timed + "(document.createElement('div'))", piece * (20_000 // len(piece))) < 2_000
    )
