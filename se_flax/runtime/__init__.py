"""What keeps a run going. It knows no network, data set or config."""
