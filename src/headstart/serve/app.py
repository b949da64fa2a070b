"""The addresses of the server, and what each answers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import python_multipart  # noqa: F401  (Starlette would miss it at the first form)
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from headstart.serve.batching import Found
from headstart.serve.inference_protocol import HEADER_LENGTH, infer, model_metadata, server_metadata
from headstart.serve.limits import MOST_BYTES, MOST_IMAGES, Gate, Hosts, Refusal, read_body
from headstart.serve.measures import Measures
from headstart.serve.models import Models, Served
from headstart.system.text import printable

Endpoint = Callable[[Request], Awaitable[Response]]

PAGE = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
# The report is one file with everything in it. In a sandbox it can ask nothing of this server, whoever wrote it.
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
)


def application(models: Models, measures: Measures, hosts: Hosts, token: bytes | None) -> Gate:
    """Return the ASGI application that serves some models.

    Args:
        measures: what is counted.
        hosts: names that it may be asked under.
        token: what a client must know; None: nothing.
    """

    async def predict(request: Request) -> Response:
        served = models.named(request.query_params.get("model"))
        body = await read_body(request.scope, request.receive)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            images = await parts(request, body)
            found = await served.answers([content for _, content in images])
        else:
            images = [("image 0", body)]
            found = await served.answers([body])
            if isinstance(found[0], Refusal):
                raise found[0]
        predictions = [
            {"name": name, "error": one.message} if isinstance(one, Refusal) else prediction(name, one, served)
            for (name, _), one in zip(images, found, strict=True)
        ]
        return as_json({"model": served.name, "version": served.version, "predictions": predictions})

    async def explain(request: Request) -> Response:
        served = models.named(request.query_params.get("model"))
        body = await read_body(request.scope, request.receive)
        image, label, method = await models.explain(served, body)
        return Response(image, media_type="image/png", headers={"X-Class": quote(label), "X-Method": quote(method)})

    async def about(request: Request) -> Response:
        return as_json(models.about())

    async def healthz(request: Request) -> Response:
        return as_json({"status": "ok"})

    async def metrics(request: Request) -> Response:
        gate: Gate = request.scope["app"]
        return Response(measures.text(gate.requests), media_type="text/plain; version=0.0.4")

    async def example(request: Request) -> Response:
        served, number = models.named(request.path_params["name"]), request.path_params["number"]
        if number >= len(served.examples):
            raise Refusal(404, f"there are {len(served.examples)} examples, counted from 0")
        return Response(served.examples[number][1], media_type="image/png")

    async def report(request: Request) -> Response:
        content = models.named(request.path_params["name"]).report_file(file := request.path_params["file"])
        kind = "text/html" if file.endswith(".html") else "image/png"
        return Response(content, media_type=kind, headers={"content-security-policy": REPORT_POLICY})

    async def v2(request: Request) -> Response:
        return as_json(server_metadata())

    async def live(request: Request) -> Response:
        return as_json({"live": True})

    async def ready(request: Request) -> Response:
        return as_json({"ready": True})

    async def v2_model(request: Request) -> Response:
        return as_json(model_metadata(models.named(request.path_params["name"])))

    async def v2_model_ready(request: Request) -> Response:
        served = models.named(request.path_params["name"])
        return as_json({"name": served.name, "ready": True})

    async def v2_infer(request: Request) -> Response:
        served = models.named(request.path_params["name"])
        body = await read_body(request.scope, request.receive)
        content, headers = await infer(served, body, request.headers.get(HEADER_LENGTH))
        return Response(content, headers=headers)

    routes = {
        "/predict": ("POST", predict), "/explain": ("POST", explain), "/models": ("GET", about), "/healthz": ("GET", healthz),
        "/metrics": ("GET", metrics), "/examples/{name}/{number:int}": ("GET", example),
        "/report/{name}/{file:path}": ("GET", report),
        "/v2": ("GET", v2), "/v2/health/live": ("GET", live), "/v2/health/ready": ("GET", ready),
        "/v2/models/{name}": ("GET", v2_model), "/v2/models/{name}/ready": ("GET", v2_model_ready),
        "/v2/models/{name}/infer": ("POST", v2_infer),
        **{"/" if name == "index.html" else f"/{name}": ("GET", page_file(name, kind)) for name, kind in PAGE.items()},
    }  # fmt: skip
    router = Router(list(of_routes(routes)), redirect_slashes=False)
    return Gate(router, hosts, token, measures)


def of_routes(routes: dict[str, tuple[str, Endpoint]]) -> Iterable[Route]:
    for path, (method, endpoint) in routes.items():
        endpoint.path = path  # type: ignore[attr-defined]  # what the counts are named after
        yield Route(path, endpoint, methods=[method])


def page_file(name: str, kind: str) -> Endpoint:
    content = files("headstart.serve").joinpath("page", name)
    page = content.read_bytes() if content.is_file() else b""

    async def answer(request: Request) -> Response:
        return Response(page, media_type=kind)

    return answer


def prediction(name: str, found: Found, served: Served) -> dict[str, Any]:
    """Return what is said of one image; without `unlike` if the run cannot tell."""
    # As many digits as `headstart predict` prints.
    rounded = found.probabilities.astype(float).round(6).tolist()
    return {
        "name": name, "class": served.label(found), "probability": max(rounded), "rejected": served.rejects(found),
        **({} if found.unlike is None else {"unlike": found.unlike}),
        "probabilities": dict(zip(served.class_names, rounded, strict=True)),
    }  # fmt: skip


def as_json(content: Any) -> Response:
    return Response(json.dumps(content), media_type="application/json")


async def parts(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """Return name and content of each file of a form.

    Raises:
        Refusal: the body is no form, or one without files, or with too many.
    """

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = Parser(request.headers, stream(), max_files=MOST_IMAGES, max_fields=0)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise Refusal(413, f"a request has at most {MOST_IMAGES} images") from None
        raise Refusal(400, "the body is no form of files: multipart/form-data with a file in each part") from None
    try:
        uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        if not uploads:
            raise Refusal(400, "the form has no file")
        return [(printable((one.filename or f"image {place}")[:255]), one.file.read()) for place, one in enumerate(uploads)]
    finally:
        await form.close()


class Parser(MultiPartParser):
    spool_max_size = MOST_BYTES  # nothing is written to disk
