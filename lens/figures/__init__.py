"""Plotly builders: numpy and plain Python in, a finished figure out. No Streamlit and no torch in here."""
