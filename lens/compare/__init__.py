"""What sets several lenses side by side: it stands above the rooms, which don't know each other."""
