"""A bucket on this machine: the emulator of Google Cloud Storage, with faults on request."""

import contextlib
import functools
import io
import json
import logging
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler, Router, _read_raw_data
from gcp_storage_emulator.storage import Storage

NAME = "bucket"
logging.getLogger("api").setLevel(logging.CRITICAL)  # it warns of every object that is missing


class Bucket:
    """A server that holds the bucket `NAME` in memory.

    Attributes:
        unavailable: share of requests that are answered with 503.
        lost: share of requests that are carried out, but whose answer is lost.
        delay: seconds that each request takes longer.
        requests: number of requests so far.
    """

    def __init__(self):
        self.unavailable = self.lost = self.delay = 0.0
        self.requests = 0
        self.random = random.Random(0)
        self.storage = Storage(use_memory_fs=True)
        self.lock = threading.Lock()  # the emulator's own server takes one request at a time
        buckets.create_bucket(NAME, self.storage)
        self._port, self._server = 0, None
        self.start()

    def start(self) -> None:
        """Answers requests, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), functools.partial(_Handler, self))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections until `start`; the objects are kept."""
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Refuses connections in this context."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which libraries use this server for gs://."""
        url = f"http://127.0.0.1:{self._port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        }

    def names(self) -> list[str]:
        """Returns the names of all objects."""
        with self.lock:
            return sorted(self.storage.objects.get(NAME, {}))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """Says nothing: clients are killed in the middle of a request."""


class _Handler(RequestHandler):
    def __init__(self, bucket: Bucket, *args):
        self._bucket = bucket
        super().__init__(bucket.storage, *args)

    def _serve(self, method: str) -> None:
        """Answers a request, with the bucket's faults; no other request sees it half done."""
        body = _read_raw_data(self) or b""
        del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(body))
        time.sleep(self._bucket.delay)
        client, self.rfile, self.wfile = self.wfile, io.BytesIO(body), io.BytesIO()
        with self._bucket.lock:
            self._bucket.requests += 1
            chance = self._bucket.random.random()
            if chance < self._bucket.unavailable:
                self._refuse(503, "Service Unavailable")
            elif self._expected_generation() not in (None, self._generation()):
                self._refuse(412, "conditionNotMet")
            else:
                Router(self).handle(method)
        if 1 - chance > self._bucket.lost:
            client.write(self.wfile.getvalue())
        self.wfile = client

    do_GET = functools.partialmethod(_serve, "GET")
    do_POST = functools.partialmethod(_serve, "POST")
    do_PUT = functools.partialmethod(_serve, "PUT")
    do_PATCH = functools.partialmethod(_serve, "PATCH")
    do_DELETE = functools.partialmethod(_serve, "DELETE")

    def _refuse(self, status: int, text: str) -> None:
        body = json.dumps({"error": {"code": status, "message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _query(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)

    def _expected_generation(self) -> int | None:
        found = self._query().get("ifGenerationMatch")
        return int(found[0]) if found else None

    def _generation(self) -> int:
        """Returns the generation of the object that a request names, 0 if there is none."""
        path = urllib.parse.urlsplit(self.path).path
        named = self._query().get("name") or [path.partition("/o/")[2]]
        found = self._bucket.storage.objects.get(NAME, {}).get(urllib.parse.unquote(named[0]))
        return int(found["generation"]) if found else 0
