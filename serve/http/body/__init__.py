"""From the bytes of a request's body to a checked request, within bounds of time and memory."""
