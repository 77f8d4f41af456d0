"""What only a GPU can show; the rest of the suite runs there too, by the `backend` fixture."""
