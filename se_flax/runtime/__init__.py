"""What keeps a run going: it knows neither networks nor data sets."""
