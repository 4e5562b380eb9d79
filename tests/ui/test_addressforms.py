"""What stands in the address: keys, which old labels still lead to; what isn't known is told from what is."""

from __future__ import annotations

import pytest

from ui.addressforms import ALIASES, LISTED, Choice, Number, Several, Span, Switch, asked, slug

LENSES = Choice("lens", ("latent", "logit", "embedding"), {"latent": "Latent!", "logit": "L", "embedding": "E"}.get)  # type: ignore[arg-type]

OLD = {
    "part": ["Through the layers", "Region", "Text layers", "Map", "Does it matter?", "Your text", "Steering", "Ablation",
             "Matrix", "Token statistics", "On the image", "How good are these features"],
    "section": ["Through the layers", "Across pictures", "Map", "Causal tests", "Other rules", "Anchors", "Controls",
                "One object in one patch"],
    "more": ["Every layer", "Scores", "Controls and baselines", "Dropped patches", "Points to SAM", "Words"],
    "lens": ["LatentLens", "Logit lens", "Embedding lens"],
    "overlay": ["Heat map", "Words", "Picture"],
    "top": ["best word", "best three"],
    "causal": ["Prune a class", "Prune in many pictures", "Skip sublayers", "Enter late", "Change the norm"],
    "steer": ["Push features", "Layer scan", "Smallest number of features"],
    "order": ["firings", "times chance"],
    "way": ["Drop", "Mean", "Zero"],
    "ablated-beside": ["20 random sets", "20 sets nearby", "Nothing"],
    "plane-of": ["The layer in view", "The stored layers together"],
    "plane-colour": ["Best word", "Layer", "Place in the picture"],
    "plane-method": ["PCA", "UMAP"],
    "aligned": ["This picture", "The gallery", "A folder"],
    "mask_rule": ["Mask head", "Otsu", "Highest share", "Above"],
    "defined": ["most frequent", "word list"],
    "scale": ["min-max", "z-score"],
    "seg_rule": ["p", "p-1"],
}  # fmt: skip
"""Labels that addresses of earlier versions hold: never change these."""
KEYS = {
    "part": ["layers", "region", "alignment", "plane", "without", "text", "steering", "ablation", "matrix", "statistics",
             "image", "quality"],
    "section": ["layers", "pictures", "map", "causal", "rules", "anchors", "controls", "bench"],
    "more": ["layers", "scores", "controls", "ablation", "sam", "words"],
    "lens": ["latent", "logit", "embedding"],
    "overlay": ["similarity", "words", "none"],
    "top": [1, 3],
    "causal": ["prune", "many", "skip", "inject", "norm"],
    "steer": ["push", "scan", "smallest"],
    "order": ["firings", "lift"],
    "way": ["drop", "mean", "zero"],
    "ablated-beside": ["anywhere", "near", "none"],
    "plane-of": ["layer", "all"],
    "plane-colour": ["word", "layer", "position"],
    "plane-method": ["PCA", "UMAP"],
    "aligned": ["one", "gallery", "folder"],
    "mask_rule": ["head", "otsu", "quantile", "value"],
    "defined": ["most frequent", "word list"],
    "scale": ["min-max", "z-score"],
    "seg_rule": ["p", "p-1"],
}  # fmt: skip
"""The options behind them, in the same order."""


@pytest.mark.parametrize("name", list(OLD))
def test_addresses_hold_keys_and_old_labels_lead_to_them(name: str):
    """Whatever the options are labelled today: here by nothing that could help."""
    form = Choice(name, tuple(KEYS[name]), lambda option: f"relabelled {option}")
    for label, option in zip(OLD[name], KEYS[name], strict=True):
        written = form.write(option)
        assert written == written.lower() and " " not in written and "_" not in written
        assert form.read(written) == option and form.read(label) == option


def test_no_alias_hides_a_key():
    for name, labels in ALIASES.items():
        keys = [slug(str(key)) for key in KEYS[name]]
        assert set(labels.values()) <= set(keys)
        assert not {label for label in labels if label in keys and labels[label] != label} - {"map", "picture"}


def test_a_label_of_today_is_read_too():
    assert LENSES.read("Latent!") == LENSES.read(" LATENT ") == "latent"


@pytest.mark.parametrize("text", ["", "foo", "latent,logit", "latent\0", "lat", "<script>", "🜂", "x" * 100_000])
def test_what_is_no_option_is_not_known(text: str):
    with pytest.raises(ValueError):
        LENSES.read(text)


def test_names_stand_in_the_address_as_they_are():
    form = Choice("model", ("My_Model v2", "my-model-v2"), named=True)
    assert [form.read(form.write(name)) for name in form.options] == list(form.options)


@pytest.mark.parametrize(
    "text", ["", "-1", "31", "99", "8.5", "1e1", "nan", "inf", "0x1", "٣", "8,9", "9" * 5000, "eight"]
)
def test_what_is_no_layer_is_not_known(text: str):
    with pytest.raises(ValueError):
        Number(0, 30).read(text)


def test_numbers_come_back():
    assert [Number(0, 30).read(text) for text in ("0", " 8", "30", "8.0")] == [0, 8, 30, 8]
    shares = Number(0.0, 1.0)
    assert [shares.write(value) for value in (0.1 + 0.2, 1.0, 0.05)] == ["0.3", "1", "0.05"]
    assert Span(shares).read(Span(shares).write((0.2, 0.8))) == (0.2, 0.8)
    for text in ("", "0.5", "0.8,0.2", "0.1,0.2,0.3", "a,b", "0,2"):
        with pytest.raises(ValueError):
            Span(shares).read(text)


def test_several_none_and_switches_come_back():
    several = Several(Choice("parts", ("smooth", "points", "mask")))
    assert several.read("points,smooth,points") == ["points", "smooth"] and several.read(several.write([])) == []
    for text in ("", "smooth,", "smooth,foo"):
        with pytest.raises(ValueError):
            several.read(text)
    assert [Switch().read(text) for text in ("true", "False", "YES", "0")] == [True, False, True, False]
    with pytest.raises(ValueError):
        Switch().read("maybe")


def test_the_sentence_says_what_was_asked_what_there_is_and_what_is_shown():
    assert asked("lens", "foo", LENSES.wanted, "LatentLens") == (
        "The address asks for ` lens=foo `, which isn't one of latent, logit, embedding; LatentLens is shown."
    )
    many = Choice("basis", tuple(range(40)))
    assert many.wanted.endswith(f"and {40 - LISTED} more")


def test_foreign_text_draws_nothing():
    said = asked("model", "`![x](http://evil/x.png)`\n# :red[x] <b>" + "y" * 500, "one of a_b, *c*", "$d$")
    assert said.count("`") == 2 and "\n" not in said and len(said) < 200
    assert r"a\_b, \*c\*" in said and r"\$d\$" in said
