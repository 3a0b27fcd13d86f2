"""A kit for tests of tuning methods."""
