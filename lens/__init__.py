"""TokenLens: what the tokens inside a vision-language model hold.

``lens`` never imports Streamlit: everything a page shows can be computed from Python or from ``python -m lens``.
"""

__version__ = "0.1.0"
