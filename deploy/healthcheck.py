"""The serve image's healthcheck: exit code 0 once the model is loaded and the server takes requests.

It uses a bare socket because it runs every few seconds, and importing an HTTP client would cost more than the request.
"""

import os
import socket
import sys

TIMEOUT_S = 3
REQUEST = b"GET /health/ready HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"


def main() -> int:
    """Ask this container's server and print its answer, which `docker inspect` shows."""
    address = ("127.0.0.1", int(os.environ.get("BURNISH_SERVE_PORT") or 8000))
    try:
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
    except OSError as error:
        print(f"no answer on port {address[1]}: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode(errors="replace").strip() or head.split(b"\r\n")[0].decode())
    return 0 if head.split(b" ")[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main())
