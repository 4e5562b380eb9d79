"""Addresses that nobody means: 500 of them read by the forms of every parameter, some dozens by a page of Streamlit's.

The forms are pure functions, and the page holds one widget of each kind. What the four pages make of such values stands in
the browser tests; here every text is either read as a value that is written and read again the same, or told as not known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from streamlit.testing.v1 import AppTest

from tests.fuzz.mutating import RUNS
from tests.ui.test_addresses import script
from tests.ui.test_addressforms import KEYS, OLD
from ui.addressforms import Choice, Form, Number, Several, Span, Switch, asked
from ui.navigation import TITLES, page_of

PAGES = 40
"""Addresses that are opened by Streamlit."""
FORMS: dict[str, Form] = {
    **{name: Choice(name, tuple(options)) for name, options in KEYS.items()},
    "model": Choice("model", ("demo", "demo-scratch", "My_Model v2"), named=True),
    "layer": Number(0, 30),
    "cosine": Number(0.0, 1.0),
    "bounds": Span(Number(0.0, 1.0)),
    "parts": Several(Choice("parts", ("smooth", "contours", "points", "mask"))),
    "plane-centred": Switch(),
}
WILD = (
    "", " ", "\t", "0", "-0", "-1", "1", "8.0", "1e9", "1e400", "nan", "inf", "-inf", "0x10", "٣", "½", "9" * 400, "1,2",
    "0.2,0.8", ",,,", "true", "None", "null", "undefined", "[]", "{}", "../../etc/passwd", "%00", "\0", "a\nb",
    "<script>alert(1)</script>",
    "![x](http://e/x.png)", "`", "$x$", ":red[x]", "🜂" * 50, "\u202egnp", "\ud83d".encode("utf-16", "surrogatepass").hex(),
    "x" * 3000, "'; DROP TABLE", "layers", "Logit lens", "smooth,points",
)  # fmt: skip


def addresses(count: int) -> Iterator[dict[str, str | list[str]]]:
    """Seeded addresses: wild values, true ones that were cut, joined or changed, and repeated ones."""
    rng = random.Random(15)
    every = [text for labels in OLD.values() for text in labels]

    def text(name: str) -> str:
        kind = rng.randrange(5)
        true = OLD.get(name, every)
        if kind == 0:
            return rng.choice(true)
        if kind == 1:
            base = rng.choice(true)
            at = rng.randrange(len(base))
            return (
                base[:at]
                + rng.choice(["", " ", "-", "_", "?", chr(rng.randrange(32, 0xD7FF))])
                + base[at + rng.randrange(2) :]
            )
        if kind == 2:
            return str(rng.choice([rng.randint(-5, 40), rng.random(), rng.uniform(-1e12, 1e12)]))
        return rng.choice(WILD)

    for _ in range(count):
        names = rng.sample([*FORMS, "image", "patch", "region", "nobody"], rng.randint(1, 8))
        yield {
            name: [text(name) for _ in range(rng.randint(2, 4))] if rng.random() < 0.2 else text(name) for name in names
        }


def test_every_value_is_read_or_told():
    start = time.monotonic()
    known = 0
    for address in addresses(RUNS):
        for name, values in address.items():
            for text in [values] if isinstance(values, str) else values:
                sentence = asked(name, text, "one of a, b", "a")
                assert sentence.count("`") == 2 and sentence.isprintable() and len(sentence) < 300
                page = page_of(text)
                assert page is None or page in TITLES
                if form := FORMS.get(name):
                    try:
                        value = form.read(text)
                    except ValueError:
                        continue
                    known += 1
                    assert form.read(form.write(value)) == value and form.show(value)
    assert known > 200, "the addresses try what is known, too"
    assert time.monotonic() - start < 10


def test_a_page_opens_at_any_address():
    for address in addresses(PAGES):
        page = AppTest.from_function(script, default_timeout=60)
        asked_for = {
            name: [t.replace("\0", "") for t in text] if isinstance(text, list) else text
            for name, text in address.items()
        }
        page.query_params.update(asked_for)
        page.run()
        assert not page.exception, address
        page.slider(key="layer").set_value(3)
        page.run()
        assert not page.exception and page.query_params["layer"] == "3", address
