"""FunctionTokens: which features the most frequent tokens switch on, and what remains of that after a control."""

from __future__ import annotations

from ui import navigation

navigation.enter()

import streamlit as st

from lens.backend.selfcheck import STATES
from ui import addresses, export, setup, sidebar, tokencards, tokenchoice, tokenwalk
from ui.export import Exhibit
from ui.sections import one_section
from ui.tokens import Setting
from ui.tokensections import SECTIONS
from ui.tokensteering import ablate_text, steer_text
from ui.work import explorer

HELP = """**What you see.** *Function tokens* are the most frequent tokens of a corpus (or closed-class words of English);
all others are content tokens. A *feature* is a direction in the model's states: a latent of a sparse autoencoder, or a
neuron. A token and a feature are joined if the feature fired on the token at least n times. The paper
([arXiv 2510.08203](https://arxiv.org/abs/2510.08203)) finds that a few function tokens reach most features.

**How far to trust it.** Whatever is frequent meets everything: the grey band is the same curve after the token labels were
shuffled over the text, and what lies within it or below it needs no other explanation than frequency. At equal numbers of
occurrences the groups can be compared. A feature is a name for what an autoencoder found, and it is as good as that is: see
*How good are these features*. Whether a feature matters is what steering and ablation measure, beside controls of the same
size."""
ALL = {
    "text": SECTIONS["text"],
    "steering": ("Steering", steer_text),
    "ablation": ("Ablation", ablate_text),
    **{name: section for name, section in SECTIONS.items() if name != "text"},
}


@explorer
@addresses.attended
def explore(setting: Setting) -> None:
    """All that follows a click."""
    st.html(f'<p class="tl-how">{tokencards.about(setting)}</p>')
    exhibits: list[Exhibit] = []
    if setting.graph is not None:
        exhibits += tokenwalk.curves(setting)
        exhibits += tokenwalk.walk(setting)
    exhibits += one_section("part", "text", ALL, setting)
    if exhibits:
        export.draw(exhibits)


st.markdown("### Function tokens")
st.caption("Which features the most frequent tokens switch on, and what remains once their frequency is taken out.")
the_spec = sidebar.draw()
the_loaded = setup.ready_model(the_spec)
setup.require(the_loaded, "What reads features", STATES)
the_setting = tokenchoice.choose(the_spec, the_loaded)
if the_setting is not None:
    explore(the_setting)
with st.expander("How to read this", icon=":material/help:"):
    st.markdown(HELP)
