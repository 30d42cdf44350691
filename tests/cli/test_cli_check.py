"""``check``: what is wrong with a file, told without an account and without a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Program, lines_of, order, results_in

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


@pytest.mark.parametrize(("differing", "others"), [(100, 0), (103, 3)])
async def test_every_reason_is_shown_and_the_results_have_what_is_too_much(
    program: Program, orders_file: Write, differing: int, others: int
) -> None:
    path = orders_file(*(order(line, **{f"odd_{line}": 1}) for line in range(1, differing + 1)))
    run = await program.run("check", "--results", "r.jsonl", path)
    assert (run.code, run.err) == (1, "")
    assert len(re.findall(r"  1 x odd_[0-9]+: no such field", run.out)) == 100
    told = f"  {others} x other reasons: --results FILE has them all  (lines 101, 102, 103)\n"
    assert (told in run.out) is bool(others)
    results = results_in(program.directory / "r.jsonl")
    assert [result["error"] for result in results] == [
        f"odd_{line}: no such field" for line in range(1, differing + 1)
    ]
    assert {result["outcome"] for result in results} == {"invalid"}


async def test_the_results_of_a_check_never_replace_the_orders(
    program: Program, orders_file: Write
) -> None:
    path = orders_file(order(1))
    run = await program.run("check", "--results", path, path)
    assert (run.code, run.out) == (2, "")
    assert "--results names the file that holds the orders" in run.err
    assert path.read_text() == lines_of(order(1))


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
