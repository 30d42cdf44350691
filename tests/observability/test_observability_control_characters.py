"""What others wrote moves no cursor, sets no clipboard and forges no line, wherever it is shown."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from rich.text import Text

from everlytic_async.cli._console import print_lines
from everlytic_async.cli._counts import Tally
from everlytic_async.cli._exit import say
from everlytic_async.cli._progress_bar import Bar
from everlytic_async.cli._screen import SEND_LABELS
from everlytic_async.errors import printable
from support.delivery import order, sandbox_client
from support.hostile_text import HOSTILE


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_printable_stays_in_its_place(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert all(now in (before, "?") for now, before in zip(shown, text, strict=True))


def test_text_without_controls_is_the_same() -> None:
    text = "Käse  für 5 € 🧀 日本語"
    assert printable(text) is text


@pytest.mark.parametrize("name", ["everlytic_async", "everlytic_async.worker"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_log_line_is_forged(caplog: pytest.LogCaptureFixture, name: str, text: str) -> None:
    logger = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, name):
        logger.warning("order %s after %.1f s: %s", text, 1.5, ValueError(text))
        logger.warning("%(key)s", {"key": text})
    first, second = caplog.messages
    assert first == f"order {printable(text)} after 1.5 s: {printable(text)}"
    assert second == printable(text)


@pytest.mark.parametrize("text", [text for name, text in HOSTILE.items() if name != "surrogate"])
async def test_an_orders_id_and_an_answer_are_logged_in_one_line(
    caplog: pytest.LogCaptureFixture, text: str
) -> None:
    with caplog.at_level(logging.DEBUG, "everlytic_async"):
        async with sandbox_client() as (_, client):
            await client.send_orders([order(1, order_id=text)])
            client.pause(0.001, reason=text)
    assert any(printable(text) in message for message in caplog.messages)
    assert all(message.isprintable() for message in caplog.messages)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_reaches_the_terminal_but_text(capsys: Any, text: str) -> None:
    say(text.replace("\n", " "))
    print_lines([f"  1  {text}", Text.assemble((text, "bold"), " dead")])
    bar = Bar("sending", Tally(), SEND_LABELS, enabled=True)
    bar.announce("", text)
    out, err = capsys.readouterr()
    lines = [*out.splitlines(), *err.splitlines()]
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert lines[0] == f"  1  {printable(text)}"


def test_a_message_of_several_lines_keeps_them(capsys: Any) -> None:
    say("no hashes. Set them:\n  EVERLYTIC_STORE_HASH\n")
    assert capsys.readouterr().err == "no hashes. Set them:\n  EVERLYTIC_STORE_HASH\n\n"
