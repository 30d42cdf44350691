"""Texts that do harm where they are shown as they are."""

from __future__ import annotations

HOSTILE = {
    "escape": "1001\x1b[2J\x1b[1;1H",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "c1": "\x9b2J\x9d0;title\x9c",
    "line": "1001\n2026-01-01 ERROR everlytic_async forged",
    "carriage return": "refused\rsent 20,000 orders",
    "backspace": "no\b\byes",
    "delete": "10\x7f01",
    "bidi": "1001\u202e\u2066detnuocsid\u2069",
    "invisible": "10\u200b01\ufeff",
    "separators": "a\u2028b\u2029c\x0b\x0c\x85d",
    "surrogate": "a\ud800b",
}
