"""Private API of the libraries, a module for each: nothing else in burnish/ touches it."""
