"""Tags, groups and keys as workers look them up."""
