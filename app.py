"""TokenLens: ``streamlit run app.py``. Navigation, theme, and what every page has in common."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

ROOT = Path(__file__).parent

st.set_page_config(page_title="TokenLens", page_icon=str(ROOT / "assets" / "icon.png"), layout="wide")
st.html(ROOT / "ui" / "style.css")

page = st.navigation(
    [st.Page("pages/latentlens.py", title="LatentLens", icon=":material/image_search:", default=True)], position="top"
)
page.run()
