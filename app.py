"""TokenLens: ``streamlit run app.py``. Navigation, theme, and what every page has in common."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

st.set_page_config(page_title="TokenLens", page_icon=":material/center_focus_strong:", layout="wide")
st.html(f"<style>{(Path(__file__).parent / 'ui' / 'style.css').read_text(encoding='utf-8')}</style>")

page = st.navigation(
    [st.Page("pages/latentlens.py", title="LatentLens", icon=":material/image_search:", default=True)], position="top"
)
page.run()
