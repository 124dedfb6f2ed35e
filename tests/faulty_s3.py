"""A fake S3, which is moto's server, that can fail some of its requests, stall, and drop connections."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.request import Request, urlopen

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

FAULTS = ("500", "503", "stall", "drop", "cut")
STALL_SECONDS = 2.0  # longer than the client of `environment` waits


class FaultyS3:
    """A server on this machine. Use it as a context.

    Attributes:
        url: Its address.
        share: The share of requests that have a fault.
        is_down: Whether all requests fail.
        counts: The number of requests with each fault, `"none"` among them.
    """

    def __init__(self, share: float = 0.0, seed: int = 0):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it reports each request
        self.share, self.is_down, self.counts = share, False, Counter[str]()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._random, self._lock, self._ended = random.Random(seed), threading.Lock(), threading.Event()
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        # moto keeps buckets in this process, where an earlier server may have made some
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST")).close()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Return the variables with which fsspec and s3fs use this server, and give up on a request after a second."""
        settings = '{"read_timeout": 1, "connect_timeout": 1, "retries": {"max_attempts": 1}}'
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "FSSPEC_S3": f'{{"config_kwargs": {settings}}}',
            "PATH": os.environ["PATH"],
        }

    def _fault(self) -> str:
        with self._lock:
            fault = "none"
            if self.is_down:
                fault = "503"
            elif self._random.random() < self.share:
                fault = self._random.choice(FAULTS)
            self.counts[fault] += 1
            return fault

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        fault = self._fault()
        if fault in ("500", "503"):
            start(f"{fault} Fault", [("Content-Type", "text/plain"), ("Content-Length", "5")])
            return [b"fault"]
        if fault == "stall":
            self._ended.wait(STALL_SECONDS)
        if fault == "drop":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start("500 Dropped", [])
            return [b""]
        body = self._app(environ, start)
        return self._cut(b"".join(body), environ["werkzeug.socket"]) if fault == "cut" else body

    @staticmethod
    def _cut(body: bytes, connection: socket.socket) -> Iterator[bytes]:
        """Yield half of a body, and close the connection."""
        yield body[: len(body) // 2]
        connection.shutdown(socket.SHUT_RDWR)
