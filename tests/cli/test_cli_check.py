"""``check``: what is wrong with a file, told without an account and without a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from command_line import Program, lines_of, order

Write = Callable[..., Path]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "orders.jsonl"


async def test_the_example_orders_are_valid(program: Program) -> None:
    run = await program.run("check", EXAMPLES)
    assert (run.code, run.err) == (0, "")
    assert re.search(r"^  valid +30  ready to be sent", run.out, re.MULTILINE)


async def test_faults_are_counted_with_their_lines(program: Program, orders_file: Write) -> None:
    two = [{"product_price": "1"}, {"product_price": "2"}]
    path = orders_file(
        *(order(line, products=two if line % 100 == 0 else [{}]) for line in range(1, 3001)),
        order(3001, contact_email=None),
    )
    run = await program.run("check", path)
    assert (run.code, run.err) == (1, "")
    assert run.out.startswith(f"3,001 orders read from {path} in ")
    assert re.search(r"^  valid +2,970  ", run.out, re.MULTILINE)
    assert re.search(r"^  invalid +31  ", run.out, re.MULTILINE)
    # An order with the same fault twice counts once.
    assert (
        "  30 x products[…].product_price: expected a number, got text  "
        "(lines 100, 200, 300, 400, 500 and 25 more)\n" in run.out
    )
    assert "one of the two is required  (line 3001)\n" in run.out


async def test_a_pipe_is_checked(program: Program) -> None:
    run = await program.run("check", "-", stdin=lines_of(order(1), "[]").encode())
    assert run.code == 1
    assert "is no order: expected one JSON object on each line  (line 2)" in run.out


async def test_no_orders_are_told_and_are_no_failure(program: Program) -> None:
    run = await program.run("check", "/dev/null")
    assert run.code == 0
    assert run.err == "There is no order in /dev/null: nothing to do.\n"


async def test_a_terminal_that_lacks_a_character_is_no_reason_to_fail(
    program: Program, orders_file: Write
) -> None:
    path = orders_file(order(1, products=[{"product_price": "…"}]))
    odd = path.rename(path.with_name("bestellungen-ü-☕.jsonl"))
    run = await program.told(PYTHONIOENCODING="ascii").run("check", odd)
    assert (run.code, run.err) == (1, "")
    assert r"products[\u2026].product_price" in run.out


async def test_a_file_name_cannot_speak_to_the_terminal(program: Program) -> None:
    path = program.directory / "a\x1b[31m\nb.jsonl"
    path.write_text(lines_of(order(1)))
    run = await program.run("check", path)
    assert run.code == 0
    assert "a?[31m?b.jsonl" in run.out
