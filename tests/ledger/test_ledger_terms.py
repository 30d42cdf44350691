"""What may be sent again, as a table; and under what name a ledger keeps an order."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everlytic_async import ConfigurationError, Delivery, Outcome
from everlytic_async._wire import encode, order_key
from everlytic_async.ledger import Entry, ResendPolicy, State, storage_key
from everlytic_async.ledger.claims import resend_policy
from everlytic_async.orders import Order

NOBODY: frozenset[State] = frozenset()
UNKNOWN = frozenset({State.UNKNOWN})
REJECTED = frozenset({State.REJECTED})
BOTH = UNKNOWN | REJECTED

# state, what is sent again besides, whether the same body is granted, whether another one is
TABLE = [
    (None, NOBODY, True, True),
    (State.IN_FLIGHT, NOBODY, False, False),
    (State.IN_FLIGHT, BOTH, False, False),
    (State.SENT, NOBODY, False, False),
    (State.SENT, BOTH, False, False),
    (State.REJECTED, NOBODY, False, True),
    (State.REJECTED, UNKNOWN, False, True),
    (State.REJECTED, REJECTED, True, True),
    (State.INVALID, NOBODY, True, True),
    (State.NOT_SENT, NOBODY, True, True),
    (State.UNKNOWN, NOBODY, False, False),
    (State.UNKNOWN, REJECTED, False, False),
    (State.UNKNOWN, UNKNOWN, True, True),
]


@pytest.mark.parametrize(("state", "again", "same", "other"), TABLE)
def test_what_may_be_sent_again(
    *, state: State | None, again: frozenset[State], same: bool, other: bool
) -> None:
    entry = None if state is None else Entry("1", state, "body")
    terms = ResendPolicy(again)

    assert terms.allows(entry, "body") is same
    assert terms.allows(entry, "other") is other


@pytest.mark.parametrize("state", State)
def test_the_table_has_a_row_for_every_state(state: State) -> None:
    assert state in {row[0] for row in TABLE}


@pytest.mark.parametrize(
    ("delivery", "resend", "again"),
    [
        (Delivery.AT_MOST_ONCE, [], NOBODY),
        (Delivery.AT_LEAST_ONCE, [], UNKNOWN),
        (Delivery.AT_MOST_ONCE, [Outcome.UNKNOWN], UNKNOWN),
        (Delivery.AT_MOST_ONCE, Outcome.REJECTED, REJECTED),
        (Delivery.AT_MOST_ONCE, "rejected", REJECTED),
        (Delivery.AT_LEAST_ONCE, {Outcome.REJECTED}, BOTH),
    ],
)
def test_the_resend_policy_of_a_stream(
    delivery: Delivery, resend: list[Outcome], again: frozenset[State]
) -> None:
    assert resend_policy(delivery, resend).states == again


@pytest.mark.parametrize("outcome", ["sent", "skipped", "invalid", "not_sent", "all", 3])
def test_what_never_is_sent_again_can_not_be_asked_for(outcome: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown or rejected"):
        resend_policy(Delivery.AT_MOST_ONCE, [outcome])  # type: ignore[list-item]


# ------------------------------------------------------------------------------------------- keys

DIGEST = re.compile(r"sha256:[0-9a-f]{32}")
NAMES = st.one_of(
    st.text(),
    st.text(st.characters(codec=None, categories=["Cs", "L", "N"])),
    st.emails(),
    st.emails().map("sha256:{}".format),
    st.builds("{}@{}".format, st.text(max_size=5), st.text(max_size=5)),
)


def normal(name: str) -> str:
    """A name without an order id's trailing white space, which may stand before a workflow."""
    return re.sub(r"\s+(?=@[0-9]*\Z)", "", unicodedata.normalize("NFC", name.strip()))


@given(name=NAMES, own=st.booleans())
@example(name="sha256:jane@shop.example", own=False)
@example(name="sha256:jane@shop.example", own=True)
@example(name="jane@shop.example\n", own=False)
@example(name="12@3\n", own=False)
def test_what_is_stored_is_a_number_or_a_digest(*, name: str, own: bool) -> None:
    key = storage_key(name, custom=own)

    assert re.search(r"@(?![0-9]*\Z)", key) is None
    assert storage_key(key, custom=own) == key
    assert DIGEST.fullmatch(key) or (key == normal(name) and not own and len(key) <= 120)
    assert re.search(r"\s", key) is None
    key.encode()  # no half characters


@given(st.lists(NAMES, min_size=2, max_size=2, unique_by=normal))
@example(["a\udc80", "a\udc81"])
@example(["a?", "a\udc81"])
def test_two_names_are_two_keys(names: list[str]) -> None:
    assert storage_key(names[0], custom=True) != storage_key(names[1], custom=True)


@pytest.mark.parametrize(
    "name", ["1001", "1001@32", "#1001", "WC-2024/17", "1001@", "0000003", "gid://shopify/Order/9"]
)
def test_a_shops_numbers_are_kept_as_they_are(name: str) -> None:
    assert storage_key(name) == name
    assert DIGEST.fullmatch(storage_key(name, custom=True))


@pytest.mark.parametrize("fields", [{"order_id": "9"}, {"order_id": "9", "workflow_id": 4}, {}])
def test_what_names_an_order_without_a_key_of_ones_own_is_kept(fields: dict[str, object]) -> None:
    order = Order.from_mapping(
        {"contact_email": "jane@shop.example", "products": [{"product_name": "Mop"}], **fields}
    )
    key = order_key(order, encode(order))

    assert storage_key(key) == key


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("1001", " 1001", "1001\n", "\u00a01001\t"),
        ("caf\u00e9-7", "cafe\u0301-7", " cafe\u0301-7 "),
        ("\u00c5", "A\u030a", "\u212b"),
        ("two words", " two words"),
    ],
)
def test_spellings_of_one_name_are_one_key(names: tuple[str, ...], *, own: bool) -> None:
    assert len({storage_key(name, custom=own) for name in names}) == 1


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"order_id": "1001 "}, {"order_id": "1001"}),
        ({"order_id": " 1001 ", "workflow_id": 32}, {"order_id": "1001", "workflow_id": 32}),
        ({"order_id": 1001}, {"order_id": "\t1001"}),
        ({"order_id": "7@32 "}, {"order_id": "7@32"}),
    ],
)
def test_an_order_ids_white_space_is_not_part_of_its_name(
    fields: dict[str, object], same: dict[str, object]
) -> None:
    assert key_of(fields) == key_of(same)


def test_an_order_id_that_looks_like_a_pair_is_no_pair() -> None:
    pair = key_of({"order_id": "7", "workflow_id": 32})
    assert pair not in {key_of({"order_id": id_}) for id_ in ("7@32", "7@32 ", "7 @32", " 7@32")}


def key_of(fields: dict[str, object]) -> str:
    order = Order.from_mapping(
        {"contact_email": "jane@shop.example", "products": [{"product_name": "Mop"}], **fields}
    )
    return storage_key(order_key(order, encode(order)))
