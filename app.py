"""TokenLens: ``streamlit run app.py``."""

from __future__ import annotations

from ui import navigation

navigation.run()
