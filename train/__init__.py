"""Stage one: from data and settings to an adapter, its exam and train.json."""
