"""What the pages share: the reader's state, the sidebar, cards and export. Streamlit, but no tensor."""
