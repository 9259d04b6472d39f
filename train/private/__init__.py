"""Private library APIs, one module per library; no other module in train/ uses them."""
