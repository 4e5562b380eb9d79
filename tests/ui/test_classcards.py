"""What the card of a patch says of its class."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lens.embedlens.anchors import Anchor, Anchors
from lens.embedlens.path import Step
from ui.classcards import meaning


def near(token: str) -> Anchors:
    found = Anchor(7, token, "dead", "", 1.0, 0.9, 20.0)
    return Anchors("m", "", "", 250, {}, (), (found,), "discovered", "")


STEP = Step(0, "dead", (("cat", 0.6), ("Upvotes", 0.5), (" VPN", 0.4), ("<b>", 0.3)), 0.1, 0.5)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("Upvotes", "Near “Upvotes”, which is a piece of a word, as"),
        (" VPN", "which begins a word or is one, as"),
        ("<b>", "Near “&lt;b&gt;”, which is a piece of a word"),
    ],
)
def test_a_dead_token_is_near_an_anchor_of_its_kind(token: str, said: str):
    assert said in meaning(STEP, near(token))


def test_what_is_near_no_anchor_says_so():
    assert meaning(replace(STEP, label="alive"), near("Upvotes")) == "Near none of the anchors"
