"""Inside the user's Trainer: callbacks, flags, data."""
