"""All of LaMer on one CPU in minutes: a tiny model, a warm start, training, and a report."""
