"""A small server on loopback that can misbehave as real ones do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files:
    """What the server offers, how it behaves, and what it was asked.

    Attributes:
        content: body by path.
        ranges: whether ``Range`` is obeyed.
        etag: sent with every body, and compared with ``If-Range``.
        cut: the next so many answers end after so many bytes.
        fail: the next so many answers are errors.
        status: of these errors.
        asked: (path, Range header) of each request.
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.ranges = True
        self.etag = '"one"'
        self.cut: list[int] = []
        self.fail = 0
        self.status = 503
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


@contextmanager
def serve() -> Iterator[Files]:
    """Runs the server on a free port while the block lasts."""
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.asked.append((self.path, self.headers.get("Range")))
            body = files.content.get(self.path)
            if files.fail:
                files.fail -= 1
                self.send_error(files.status)
                return
            if body is None:
                self.send_error(404)
                return
            start = 0
            wanted = self.headers.get("Range")
            same = self.headers.get("If-Range") in (None, files.etag)
            if wanted and files.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            if files.etag:
                self.send_header("ETag", files.etag)
            self.end_headers()
            rest = body[start:]
            self.wfile.write(rest[: files.cut.pop(0)] if files.cut else rest)

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
