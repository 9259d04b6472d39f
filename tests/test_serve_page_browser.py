"""The chat page in Debian's Chromium, with a server that echoes and injects errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import INSECURE_HOST, ChatPage, chromium
from tests.support.echo_server import EchoServer, echoing
from tests.support.server import serving

pytestmark = pytest.mark.external(name="chromium")
ESCAPE, CONTROL, ENTER = "\ue00c", "\ue009", "\ue007"
LONG = "\n".join(f"line {number}" for number in range(150))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def running() -> Iterator[EchoServer]:
    with echoing() as server:
        yield server


@pytest.fixture
def server(running: EchoServer) -> EchoServer:
    running.proxy.fault, running.backend.pause_s = "", 0.0
    running.proxy.requests.clear()
    return running


@pytest.fixture
def page(browser: Any, server: EchoServer) -> Iterator[ChatPage]:
    page = ChatPage(browser, server.url)
    page.open()
    yield page
    assert page.faults() == []


def messages(server: EchoServer) -> list[tuple[str, str]]:
    """Return the messages of the last request."""
    return [(message["role"], message["content"]) for message in server.proxy.requests[-1]["messages"]]


def set_text(page: ChatPage, text: str) -> None:
    """Send a long text at once; typing it would take seconds."""
    page.js("document.getElementById('text').value = arguments[0]", text)
    page.click("#send")


def test_conversation_has_several_turns(page: ChatPage, server: EchoServer) -> None:
    page.fill("#system", "Be brief.")
    assert page.ask("one") == "one" and page.ask("two\nlines") == "two\nlines"
    assert page.shown() == ["one", "one", "two\nlines", "two\nlines"]
    expected = [("system", "Be brief."), ("user", "one"), ("assistant", "one"), ("user", "two\nlines")]
    assert messages(server) == expected
    assert (
        "10 tokens" in page.text(".note") and "tokens/s" in page.text(".note") and "in the prompt" in page.text(".note")
    )


def test_answer_stopped_by_a_new_chat_stays_in_the_old_chat(page: ChatPage, server: EchoServer) -> None:
    server.backend.pause_s = 0.05
    page.send("the old question is a long one")
    page.until(lambda: page.text(".assistant .text").startswith("the"))
    page.click("#new")
    server.backend.pause_s = 0.0
    assert page.ask("new") == "new"
    assert page.shown() == ["new", "new"] and messages(server) == [("user", "new")]
    page.click("#chats-toggle")
    page.click("#chats li:nth-child(2) button:first-child")
    old = page.shown()
    assert old[0] == "the old question is a long one" and old[0].startswith(old[1]) and len(old[1]) < len(old[0])
    assert page.text(".warning") == "Stopped."


LEFT = "const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight"
TOP = "return document.getElementById('log').scrollTop"


def test_selecting_the_current_chat_does_not_stop_its_answer(page: ChatPage, server: EchoServer) -> None:
    server.backend.pause_s = 0.05
    text = "a text of some length, so that its answer takes a while"
    page.send(text)
    page.until(lambda: page.text(".assistant .text").startswith("a t"))
    page.click("#chats-toggle")
    page.click("#chats li button:first-child")
    assert page.answered() == text and not page.all(".warning")


def test_scrolling_up_disables_autoscroll(page: ChatPage, server: EchoServer) -> None:
    server.backend.pause_s = 0.003
    set_text(page, LONG)
    page.until(lambda: "line 60" in page.text(".assistant .text"))
    server.backend.pause_s = 0.5
    page.until(lambda: page.js(LEFT) < 1)
    wheel = {"type": "mouseWheel", "x": 500, "y": 400, "deltaX": 0, "deltaY": -20}
    page.browser.execute_cdp_cmd("Input.dispatchMouseEvent", wheel)
    page.until(lambda: page.all("#latest"))
    time.sleep(0.3)  # scrolling is animated
    top, before = page.js(TOP), page.text(".assistant .text")
    server.backend.pause_s = 0.003
    page.until(lambda: len(page.text(".assistant .text")) > len(before) + 100)
    assert page.js(TOP) == top
    page.click("#latest")
    page.answered()
    assert page.js(LEFT) < 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("html", "HTTP 502 Bad Gateway. This reply is not from the model server."),
        ("login", "but the reply is text/html (a page titled “Sign in”)"),
    ],
    ids=["html", "login"],
)
def test_html_error_page_of_a_proxy_is_reported_and_the_input_is_kept(
    page: ChatPage, server: EchoServer, fault: str, expected: str
) -> None:
    server.proxy.fault = fault
    page.send("a precious text")
    page.until(lambda: page.all(".fault"))
    assert expected in page.text(".fault") and "token" not in page.text(".fault")
    assert page.value("#text") == "a precious text" and page.shown() == []
    server.proxy.fault = ""
    page.keys(ENTER)
    assert page.answered() == "a precious text" and not page.all(".fault")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("cut", "The connection closed before the end of the answer. The answer may be incomplete."),
        ("lost", "The connection to the server was lost. The answer may be incomplete."),
        ("error", "out of cells"),
    ],
    ids=["cut", "lost", "error"],
)
def test_interrupted_answer_is_marked(page: ChatPage, server: EchoServer, fault: str, expected: str) -> None:
    server.proxy.fault, server.backend.pause_s = fault, 0.01
    text = "a text that is longer than what comes through " * 5
    answer = page.ask(text)
    assert answer and text.startswith(answer) and len(answer) < len(text) - 5
    assert page.text(".warning") == expected
    page.load("#" + page.js("return location.hash").lstrip("#"))
    assert page.text(".warning") == expected, "also after the chat is opened again"


def test_server_outage_is_reported_until_the_server_returns(page: ChatPage, server: EchoServer) -> None:
    server.stop()
    try:
        page.send("hello?")
        page.until(lambda: page.all(".fault"))
        assert "can't be reached" in page.text(".fault") and page.value("#text") == "hello?"
        page.until(lambda: page.text("#model") == "Offline")
        assert "Trying again" in page.text("#problem")
    finally:
        server.start()
    page.until(lambda: page.text("#model") == "echo" and not page.all("#problem"))
    page.keys(ENTER)
    assert page.answered() == "hello?"


def test_escape_cancels_a_request_without_a_response(page: ChatPage, server: EchoServer) -> None:
    server.proxy.fault = "silent"
    page.send("anyone?")
    page.until(lambda: page.text("#elapsed").startswith("Waiting, 1 s"))
    page.keys(ESCAPE)
    page.until(lambda: page.text("#send") == "Send")
    assert page.value("#text") == "anyone?" and page.shown() == [] and not page.all(".fault")


def test_missing_response_is_reported(page: ChatPage) -> None:
    for heard, expected in ((50_000, "Answering, 60 s."), (10_000, "Nothing received from the server for 50 s.")):
        run = {"turn": {"content": "some"}, "began": 0, "heard": heard}
        assert page.imported("progress.js", "m.elapsed(a[0], 60000)", run) == expected


def test_escape_keeps_the_text_received_so_far(page: ChatPage, server: EchoServer) -> None:
    server.backend.pause_s = 0.05
    page.send("a rather long text to stop")
    page.until(lambda: page.text(".assistant .text").startswith("a ra"))
    page.keys(ESCAPE)
    answer = page.answered()
    assert "a rather long text to stop".startswith(answer) and page.text(".warning") == "Stopped."
    server.backend.pause_s = 0.0
    assert page.ask("next") == "next"
    assert [text for _, text in messages(server)] == ["a rather long text to stop", answer, "next"]


def test_empty_settings_are_not_sent(page: ChatPage, server: EchoServer) -> None:
    page.ask("first")
    assert server.proxy.requests[-1]["temperature"] == 0.7 and "max_tokens" not in server.proxy.requests[-1]
    page.fill("#temperature", "")
    page.fill("#max-tokens", "3")
    assert page.ask("second") == "sec"
    assert server.proxy.requests[-1]["max_tokens"] == 3 and "temperature" not in server.proxy.requests[-1]
    assert page.text(".warning") == "Stopped at 3 tokens (max tokens)."
    page.fill("#temperature", "3")
    page.click("#settings-toggle")
    page.send("third")
    assert page.all("#temperature"), "the panel with the invalid field opens"
    assert page.value("#text") == "third" and len(server.proxy.requests) == 2


def test_regenerate_repeats_the_request_and_keeps_the_old_answer_on_failure(page: ChatPage, server: EchoServer) -> None:
    page.ask("one")
    page.click(".again")
    assert page.answered() == "one" and messages(server) == [("user", "one")] and len(server.proxy.requests) == 2
    server.proxy.fault = "html"
    page.click(".again")
    page.until(lambda: page.all(".fault"))
    assert page.shown() == ["one", "one"]


def test_edited_message_is_sent_again_and_later_turns_return_on_failure(page: ChatPage, server: EchoServer) -> None:
    page.ask("one")
    page.ask("two")
    first = page.all(".edit")[0]
    first.click()
    page.fill(".editing textarea", "changed")
    page.keys(ESCAPE)
    assert page.shown() == ["one", "one", "two", "two"]
    page.all(".edit")[0].click()
    page.fill(".editing textarea", "changed")
    server.proxy.fault = "html"
    page.click(".save")
    page.until(lambda: page.all(".fault"))
    assert page.value(".editing textarea") == "changed" and page.shown()[1:] == ["one", "two", "two"]
    server.proxy.fault = ""
    page.click(".save")
    assert page.answered() == "changed" and page.shown() == ["changed", "changed"]
    assert messages(server) == [("user", "changed")]


def test_sse_parser_accepts_all_line_endings_and_comments(page: ChatPage, server: EchoServer) -> None:
    server.proxy.fault = "crlf"
    assert page.ask("straße 🙂 done") == "straße 🙂 done" and not page.all(".warning")


def test_tool_call_is_displayed_as_a_tool_call(page: ChatPage) -> None:
    pieces = [{"index": 0, "function": {"name": "f", "arguments": ""}}, {"index": 0, "function": {"arguments": "{}"}}]
    expected = page.imported(
        "progress.js", "(c => (a[0].forEach(p => m.addCall(c, p)), m.shortfall({calls: c})))([])", pieces
    )
    assert expected == "The model called f({}). This page has no tools."


@pytest.mark.parametrize("end", ["\\n", "\\r\\n", "\\r"])
def test_sse_events_do_not_depend_on_chunk_boundaries(page: ChatPage, end: str) -> None:
    stream = ":hi|data: a|data:b||event: x|id|data:  c: d||data||data: [DONE]||".replace("|", end)
    cut = """[...Array(s.length + 1).keys()].map(i => { const p = new m.EventParser();
             return [...p.feed(s.slice(0, i)), ...p.feed(s.slice(i)), ...p.end()]; })"""
    single = "(p => [...[...s].flatMap(c => p.feed(c)), ...p.end()])(new m.EventParser())"
    found = page.imported("sse.js", f'(s => [...{cut}, {single}])("{stream}")')
    assert all(events == ["a\nb", " c: d", "", "[DONE]"] for events in found)


def test_chat_is_saved_without_the_api_key(page: ChatPage) -> None:
    page.fill("#key", "sk-secret")
    page.fill("#system", "Be kind.")
    page.ask("remember me")
    page.click("#new")
    page.fill("#system", "")
    page.ask("another")
    page.load()
    assert page.shown() == [] and "sk-secret" not in page.js("return JSON.stringify(localStorage)")
    assert [found.text for found in page.all("#chats li button:first-child")] == ["another", "remember me"]
    page.click("#chats li:nth-child(2) button:first-child")
    assert page.shown() == ["remember me", "remember me"] and page.value("#system") == "Be kind."
    page.browser.refresh()
    page.until(lambda: page.shown() == ["remember me", "remember me"])
    page.click("#chats li:nth-child(2) button:last-child")
    page.browser.switch_to.alert.accept()
    page.until(lambda: page.shown() == [] and len(page.all("#chats li")) == 1)
    page.click("#delete-all")
    page.browser.switch_to.alert.accept()
    page.until(lambda: not page.all("#chats li"))
    assert page.js("return Object.keys(localStorage).filter(k => k.includes('chat'))") == []


def test_full_storage_is_reported_and_chatting_continues(page: ChatPage) -> None:
    page.js("for (let n = 1 << 22; n; n >>= 1) try { localStorage.setItem('x' + n, 'y'.repeat(n)) } catch {}")
    assert page.ask("still works") == "still works"
    assert "can't save" in page.text("#unsaved")


@pytest.mark.parametrize("entry", ["{", "null", "[]", '{"id":"bad"}', '{"id":"bad","turns":[{"role":"user"}]}'])
def test_invalid_storage_entries_are_ignored(page: ChatPage, entry: str) -> None:
    page.js(
        "localStorage.setItem('burnish.chat.bad', arguments[0]); localStorage.setItem('burnish.settings', '7')", entry
    )
    page.load("#bad")
    assert page.ask("fine") == "fine"


def test_question_is_kept_when_the_page_closes_during_the_answer(page: ChatPage, server: EchoServer) -> None:
    server.proxy.fault = "silent"
    page.send("asked before")
    page.until(lambda: page.text("#send") == "Stop")
    server.proxy.fault = ""
    page.load(page.js("return location.hash"))
    assert page.shown() == ["asked before"] and page.text(".again") == "Get an answer"
    page.click(".again")
    assert page.answered() == "asked before"


def test_missing_api_key_is_requested(browser: Any) -> None:
    with echoing(keys=["sesame"]) as locked:
        browser.get(locked.url)
        page = ChatPage(browser, locked.url)
        page.until(lambda: page.text("#model") == "API key needed")
        assert page.all("#key") and "No API key provided" in page.text("#problem")
        page.fill("#key", "sesame\t")
        page.until(lambda: page.text("#model") == "echo")
        assert page.ask("open") == "open"


def test_chats_and_copying_work_without_a_secure_context(browser: Any, server: EchoServer) -> None:
    page = ChatPage(browser, server.url.replace("127.0.0.1", INSECURE_HOST))
    page.open()
    page.ask("copy this")
    assert page.js("return [isSecureContext, navigator.clipboard === undefined]") == [False, True]
    page.click(".assistant .copy")
    page.until(lambda: page.text(".assistant .copy") == "Copied")
    page.all("#text")[0].send_keys(CONTROL + "v")
    assert page.value("#text") == "copy this"


def test_page_fits_a_phone_screen(server: EchoServer) -> None:
    with chromium(phone=True) as browser:
        page = ChatPage(browser, server.url)
        page.open()
        assert not page.all("#settings") and not page.all("#chats")
        page.click("#settings-toggle")
        assert page.all("#temperature")
        page.click("#settings-toggle")
        set_text(page, "```\n" + "wide " * 100 + "\n```\n\n| a |\n|---|\n| " + "b" * 300 + " |")
        page.answered()
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
        page.click("#chats-toggle")
        page.click("#chats li button:first-child")
        assert not page.all("#chats") and len(page.shown()) == 2


def test_every_control_has_an_accessible_name_and_keyboard_focus(page: ChatPage) -> None:
    page.ask("`a`\n\n```\nb\n```")
    page.click("#chats-toggle")
    controls = page.all("button, input, textarea, [tabindex], summary")
    assert [c.get_attribute("outerHTML") for c in controls if not c.accessible_name and c.tag_name != "pre"] == []
    reached = set()
    for _ in range(2 * len(controls)):
        page.keys("\ue004")
        reached.add(page.browser.switch_to.active_element.id)
    assert {c.id for c in controls} <= reached


@pytest.mark.slow
def test_page_works_with_a_real_model(browser: Any) -> None:
    with serving() as real:
        page = ChatPage(browser, real.url.removesuffix("v1"))
        browser.get(page.url)
        page.until(lambda: "SmolLM2" in page.text("#model"))
        page.fill("#temperature", "0")
        assert "Rome" in page.ask("What is the capital of Italy? Answer in one short sentence.")
        page.fill("#max-tokens", "5")
        page.ask("And of France?")
        assert (
            page.text(".note").startswith("5 tokens") and page.text(".warning") == "Stopped at 5 tokens (max tokens)."
        )
        page.fill("#max-tokens", "")
        page.send("Count to one thousand.")
        page.until(lambda: len(page.text(".assistant .text")) > 20)
        page.click("#send")
        page.answered()
        real.wait_idle()
