"""A small server on the loopback that speaks the hub's protocol for files: https://huggingface.co/docs/hub/api."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by id: revision -> commit, and commit -> files.

    gated: ids that answer so.  cut: after how many bytes the next large answer ends.  short: whether it says so.
    asked: the paths that were asked for.  url, others: of the hub, and of the store that it redirects to.
    """

    def __init__(self):
        self.revisions: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut, self.short, self.asked, self.url, self.others = None, False, [], "", ""

    def push(self, place: str, files: dict[str, bytes], revision: str = "main") -> str:
        commit = sha256(repr((place, sorted(files.items()))).encode()).hexdigest()[:40]
        self.revisions.setdefault(place, {}).update({revision: commit, commit: commit})
        self.files[commit] = files
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        if path.startswith("/blobs/"):
            _, _, commit, name = path.split("/", 3)
            return 200, {}, self.files[commit][name]
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[1] not in self.revisions:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        place, revision, name = found.groups()
        if place in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if revision not in self.revisions[place]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit = self.revisions[place][revision]
        headers = {"X-Repo-Commit": commit}
        if name not in self.files[commit]:
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        content = self.files[commit][name]
        headers["ETag"] = f'"{sha256(content).hexdigest()}"'
        if not name.endswith(".safetensors"):
            return 200, headers, content
        linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        return 302, headers | linked | {"Location": f"{self.others}/blobs/{commit}/{name}"}, b""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self, with_content: bool) -> None:
            hub.asked.append(self.path)
            status, headers, content = hub.answer(self.path)
            if (start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and status == 200:
                first = int(start[1])
                headers |= {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
                status, content = 206, content[first:]
            size, cut = len(content), None
            if with_content and hub.cut is not None and self.path.startswith("/blobs/"):
                cut, hub.cut = hub.cut, None
                content = content[:cut]
            self.send_response(status)
            headers |= {"Content-Length": str(len(content) if hub.short and cut is not None else size)}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if with_content:
                self.wfile.write(content)
            self.close_connection = cut is not None

        def do_GET(self):
            self.respond(True)

        def do_HEAD(self):
            self.respond(False)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url, hub.others = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
