"""Settings: what there is, and what was given."""
