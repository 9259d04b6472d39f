"""All runs at a glance: a line for each, and a page that links their reports."""
