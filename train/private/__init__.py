"""Private API of the libraries, a module for each: nothing else in train/ touches it."""
