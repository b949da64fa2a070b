"""What is checked of every request before it is understood, what requests may take together, and how refusals are answered."""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import socket
import time
import traceback
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headstart.serve.measures import Measures

logger = logging.getLogger("headstart")

# Of one request: bytes of its body, pixels of one image, images. Any camera's JPEG fits.
MOST_BYTES, MOST_PIXELS, MOST_IMAGES = 20_000_000, 50_000_000, 64
# Of all requests together: how many are under way, and how many bytes their bodies have.
MOST_REQUESTS, MOST_HELD = 256, 400_000_000
# A phone sends 20 MB in a minute.
SECONDS_OF_BODY = 60.0
# A client that is refused while it sends would not see the answer, so that much more is read, and for so long.
MOST_DISCARDED, SECONDS_OF_DISCARDING = 64 << 20, 5.0

# The page has no script, style or image from elsewhere, and nothing may embed it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-cache",
}  # fmt: skip
# What anybody may see without the token: the page asks for it, and whatever watches the server has none.
OPEN = ("/", "/page.js", "/page.css", "/healthz")


class Refusal(Exception):
    """A request is not answered as it wants.

    Args:
        status: of HTTP.
        message: what was wrong, and what to do. The client sees it: it names nothing of this machine.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def busy(why: str) -> Refusal:
    return Refusal(503, f"{why}: try again in a second", retry_after="1")


class Hosts:
    """Names under which this server may be asked.

    A page of somebody else's can let its own name point to this server, and then read all answers (DNS rebinding). The name is
    in the Host header. Numeric addresses cannot be made to point elsewhere.

    Args:
        listening: the address that is listened on.
        more: further names, such as that of a proxy.
    """

    def __init__(self, listening: str, more: Collection[str] = ()) -> None:
        self.loopback = is_loopback(listening)
        own = {"localhost"} if self.loopback else {"localhost", listening, socket.gethostname(), socket.getfqdn()}
        self.names = {name.lower().rstrip(".") for name in {*own, *more}}

    def __contains__(self, header: str) -> bool:
        """Whether a Host header, with or without a port, names this server."""
        with contextlib.suppress(ValueError):
            name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
            if name in self.names:
                return True
            return ipaddress.ip_address(name).is_loopback or not self.loopback
        return False


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Gate:
    """The outermost part of the application: it checks requests, and answers whatever is raised inside.

    Args:
        app: the part inside.
        hosts: see `Hosts`.
        token: what a client must know; None: nothing.
        measures: counts requests.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, token: bytes | None, measures: Measures) -> None:
        self.app, self.hosts, self.measures = app, hosts, measures
        self.token = None if token is None else b"Bearer " + token
        self.requests = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin, status = time.perf_counter(), 499  # the client has gone
        # So that routes raise what they refuse, and the body's reader finds this.
        scope["app"] = self

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"].extend(
                    pair for name, value in HEADERS.items() if (pair := (name.encode(), value.encode()))[0] not in given
                )
            await send(message)

        self.requests += 1
        try:
            try:
                self.check(scope)
                await self.app(scope, receive, answer)
            except ClientDisconnect:
                pass
            except Exception as error:
                if status != 499:  # the answer has begun
                    raise
                await self.refuse(as_refusal(error), scope, receive, answer)
        finally:
            self.requests -= 1
            self.held -= scope.pop("held", 0)
            self.measures.answered(path_of(scope), status, time.perf_counter() - begin)

    def check(self, scope: Scope) -> None:
        """Raise `Refusal` if a request may not be asked."""
        if self.requests > MOST_REQUESTS and scope["path"] not in OPEN:  # who is busy is not ill
            raise busy("too many requests are under way")
        headers = dict(scope["headers"])
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            raise Refusal(400, "a request names its host once")
        if (host := hosts[0].decode("latin-1")) not in self.hosts:
            raise Refusal(421, "this server is not asked under that name: --allowed-host allows one more")
        if scope["method"] == "POST":
            origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
            foreign = origin is not None and netloc(origin.decode("latin-1")) != host
            if foreign or site not in (b"same-origin", b"none"):
                raise Refusal(403, "a page of another site may not ask this server")
        known = self.token is None or hmac.compare_digest(headers.get(b"authorization", b""), self.token)
        if not known and scope["path"] not in OPEN:
            raise Refusal(401, "this server wants its token: Authorization: Bearer TOKEN", www_authenticate="Bearer")
        length = headers.get(b"content-length", b"0")
        # Python reads no number of more than 4,300 digits.
        if not length.isdigit() or len(length) > 18:
            raise Refusal(400, "Content-Length is no number of bytes")
        if int(length) > MOST_BYTES:
            raise too_long()

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        whole = await discarded(scope, receive)
        body = json.dumps({"error": refusal.message}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        if not whole:
            headers["connection"] = "close"
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def as_refusal(error: Exception) -> Refusal:
    """Return how an exception is answered. What is unexpected is logged, and the client learns nothing of it."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        known = {404: "there is nothing at this address", 405: "this address does not know that method"}
        allow = {"allow": error.headers["Allow"]} if error.headers and "Allow" in error.headers else {}
        return Refusal(error.status_code, known.get(error.status_code, HTTPStatus(error.status_code).phrase), **allow)
    logger.error("a request failed, and was answered with 500: %s", type(error).__name__)
    for line in traceback.format_exception(error):
        for one in line.splitlines():
            logger.info("%s", one)
    return Refusal(500, "the server could not answer, and its log says why")


def too_long() -> Refusal:
    return Refusal(413, f"a request has at most {MOST_BYTES:,} bytes")


def netloc(origin: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc
    return ""


def path_of(scope: Scope) -> str:
    """Return the route that answered, with its parameters' names instead of their values."""
    return getattr(scope.get("endpoint"), "path", "other")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the body of a request. It is checked while it comes.

    Raises:
        Refusal: it is empty, too long or too slow, or all bodies together are too long.
        ClientDisconnect: the client has gone.
    """
    gate: Gate = scope["app"]
    chunks, length = [], 0
    try:
        async with asyncio.timeout(SECONDS_OF_BODY):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                more = message.get("more_body", False)
                if chunk := message.get("body", b""):
                    chunks.append(chunk)
                    length += len(chunk)
                    gate.held += len(chunk)
                    scope["held"] = length
                    if length > MOST_BYTES:
                        raise too_long()
                    if gate.held > MOST_HELD:
                        raise busy("too many bytes are under way")
    except TimeoutError:
        raise Refusal(408, f"the body took more than {SECONDS_OF_BODY:.0f} seconds", connection="close") from None
    scope["whole"] = True
    if not length:
        raise Refusal(400, "the body is empty: send an encoded image")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def discarded(scope: Scope, receive: Receive) -> bool:
    """Read what a client still sends of its body, for a while, and return whether that was all of it."""
    if scope.get("whole"):
        return True
    headers, length = dict(scope["headers"]), 0
    declared = headers.get(b"content-length", b"0")
    if b"expect" in headers or len(declared) > 9 or not declared.isdigit() or int(declared) > MOST_DISCARDED:
        return False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_OF_DISCARDING):
            while length <= MOST_DISCARDED:
                message = await receive()
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return message["type"] == "http.request"
    return False
