"""All uses of private library APIs in burnish/, with one module per library."""
