"""What the pages share: the reader's state, the sidebar, cards and export. Streamlit lives here and in ``pages``; no tensor does."""
