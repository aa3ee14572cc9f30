"""An HTTP server that classifies uploaded videos: ``create_app`` and ``serve``.

A request first takes one of ``queue + workers`` slots, then its body is read, so the uploads in memory have at most
``max_upload * (queue + workers)`` bytes. The slot is released when the video is classified, or when the client has
disconnected and the decoder does not use the upload any more.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import prometheus_client
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

import zoo
from zoo.errors import DataError, check_int, check_number
from zoo.inference.batching import Batcher, Job
from zoo.inference.predictor import Prediction, Predictor
from zoo.inference.remote_video import fetch_video
from zoo.text import one_line, parse_json, printable
from zoo.video.source import Source

T = TypeVar("T")

MAX_JSON = 16 << 10  # bytes of a JSON body
MAX_CONNECTIONS = 1000
HEADER_SECONDS = 10.0  # for the head of a request
LINGER = 2.0  # seconds in which the rest of a refused upload is read and ignored, so that the client gets the response
CLIENT_CLOSED = 499  # for the metrics; the client does not get it
# Content types of videos apart from video/*; no content type is accepted as well
VIDEO_TYPES = ("application/octet-stream", "application/mp4", "application/mxf", "application/ogg", "image/gif")
ROUTES = ("/", "/predict", "/health", "/metrics", "/openapi.json")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # limits of histogram buckets
VIEWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``create_app``.

    name: name of the network in responses.
    max_upload: bytes of an uploaded or downloaded video.
    queue: requests that wait while all decoding threads are busy; further requests get status 503.
    timeout: seconds for receiving a video, and again for classifying it.
    allow_url: hosts from which videos are downloaded; "*" stands for every public host.
    top: classes in a response.

    Raises:
        ConfigError: an option with a wrong type or value.
    """

    name: str
    max_upload: int = 64 << 20
    queue: int = 32
    timeout: float = 30.0
    allow_url: tuple[str, ...] = ()
    top: int = 5

    def __post_init__(self) -> None:
        check_int("max_upload", self.max_upload, 1)
        check_int("queue", self.queue, 0)
        check_number("timeout", self.timeout, 0.1, 3600)
        check_int("top", self.top, 1)
        object.__setattr__(self, "allow_url", tuple(host.lower() for host in self.allow_url))


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = Counter(
            "tempozoo_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.rejected = Counter("tempozoo_rejected", "Requests refused because the queue was full", registry=registry)
        self.queue = Gauge("tempozoo_queue_length", "Requests that wait or are processed", registry=registry)
        self.batch = Histogram("tempozoo_batch_size", "Views in a batch", buckets=VIEWS, registry=registry)
        self.seconds = Histogram("tempozoo_predict_seconds", "Duration of requests", buckets=SECONDS, registry=registry)

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return prometheus_client.generate_latest(self.registry)


class CountRequests:
    """ASGI middleware that records the status and the duration of every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in ROUTES else "other"
        start = time.monotonic()

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, message["status"]).inc()
                if path == "/predict":
                    self.metrics.seconds.observe(time.monotonic() - start)
            await send(message)

        await self.app(scope, receive, record)


class ErrorResponse(JSONResponse):
    """Error as JSON. If the body of the request was not read completely, the connection is closed.

    The rest of the body is read for up to ``LINGER`` seconds after the response is sent. Closing the connection at once
    would reset it, and the client would not see the response.
    """

    def __init__(self, status: int, message: str, *, body_read: bool, headers: dict[str, str] | None = None) -> None:
        headers = headers or {}
        super().__init__({"error": message}, status, headers if body_read else headers | {"connection": "close"})
        self.body_read = body_read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if self.body_read:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                more = True
                while more:
                    message = await receive()
                    more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            pass
        await send({"type": "http.response.body"})


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a time limit for the head of a request; uvicorn waits for it without a limit."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """End the time limit when a request has begun; start it with the first bytes of the next request."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Service:
    """Receives videos and classifies them, with a limited number of requests at a time.

    Attributes:
        batcher: exists while the server runs.
    """

    def __init__(self, predictor: Predictor, options: ServeOptions) -> None:
        self.predictor, self.options, self.metrics = predictor, options, Metrics()
        self.slots = options.queue + predictor.workers
        self.batcher: Batcher | None = None
        self._used = 0

    async def predict(self, request: Request) -> tuple[Prediction, dict[str, float]]:
        """Classify the video of a request; returns the prediction and the seconds of each step.

        Raises:
            HTTPException: the video cannot be received or classified.
            ClientDisconnect: the client has disconnected.
        """
        media_type = check_headers(request, self.options.max_upload)
        self._take_slot()
        loop = asyncio.get_running_loop()

        def release() -> None:  # called in other threads
            loop.call_soon_threadsafe(self._release_slot)

        start = time.monotonic()
        job: Job | None = None
        try:
            content = await self._receive(request, media_type)
            received = time.monotonic()
            assert self.batcher is not None
            job = self.batcher.submit(Source("upload", content=content), received + self.options.timeout, release)
            del content  # the job releases it after decoding
        finally:
            if job is None:
                self._release_slot()
        prediction = await self._wait(request, job)
        steps = {"receive": received - start, "decode": job.decode_seconds, "network": job.network_seconds}
        return prediction, steps | {"total": time.monotonic() - start}

    def _take_slot(self) -> None:
        if self._used >= self.slots:
            self.metrics.rejected.inc()
            raise HTTPException(
                503, f"The queue is full: {self.slots} requests are waiting or being processed.", {"Retry-After": "1"}
            )
        self._used += 1
        self.metrics.queue.set(self._used)

    def _release_slot(self) -> None:
        self._used -= 1
        self.metrics.queue.set(self._used)

    async def _receive(self, request: Request, media_type: str) -> bytes:
        """Return the video in the body of a request, or at the URL that the body contains."""
        options = self.options
        is_json = media_type == "application/json"
        try:
            async with asyncio.timeout(options.timeout):
                body = await read_body(request, MAX_JSON if is_json else options.max_upload)
        except TimeoutError:
            raise HTTPException(408, f"The upload took longer than {options.timeout:g} s.") from None
        if not is_json:
            if not body:
                raise HTTPException(400, 'The body is empty; send a video, or JSON such as {"url": "https://..."}.')
            return body
        download = asyncio.create_task(fetch_video(parse_url(body), options.allow_url, options.max_upload))
        try:
            return await result_for_client(request, download, options.timeout)
        except TimeoutError:
            raise HTTPException(504, f"The download took longer than {options.timeout:g} s.") from None

    async def _wait(self, request: Request, job: Job) -> Prediction:
        """Return the result of a job; drop the job if the client disconnects or the time limit passes."""
        try:
            result = asyncio.wrap_future(job.result)
            return await result_for_client(request, result, max(0.0, job.deadline - time.monotonic()))
        except TimeoutError:
            raise HTTPException(504, f"Classifying the video took longer than {self.options.timeout:g} s.") from None
        except DataError as error:
            if time.monotonic() >= job.deadline:
                message = f"Decoding the video took longer than {self.options.timeout:g} s."
                raise HTTPException(504, message) from error
            raise HTTPException(422, printable(str(error))) from error
        finally:
            job.cancel()


def check_headers(request: Request, max_upload: int) -> str:
    """Check the headers of an upload, before its body is read; return its media type.

    Raises:
        HTTPException: 415, wrong type; 413, too large.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("", "application/json", *VIDEO_TYPES) and not media_type.startswith("video/"):
        message = f"The content type is {one_line(media_type)}; send a video as video/mp4 or application/octet-stream, "
        raise HTTPException(415, message + 'or {"url": ...} as application/json.')
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "The body is compressed; send the video as it is.")
    limit = MAX_JSON if media_type == "application/json" else max_upload
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise HTTPException(413, f"The body has {length} bytes; at most {limit} are allowed.")
    return media_type


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413, it has more than ``limit`` bytes.
        ClientDisconnect: the client has disconnected.
    """
    body = io.BytesIO()  # getvalue does not copy
    async for chunk in request.stream():
        if body.tell() + len(chunk) > limit:
            raise HTTPException(413, f"The body has more than {limit} bytes.")
        body.write(chunk)
    request.state.body_read = True
    return body.getvalue()


def parse_url(body: bytes) -> str:
    """Return the URL in a JSON body.

    Raises:
        HTTPException: 400, the body is something else.
    """
    try:
        content = parse_json(body.decode("utf-8"))
    except ValueError as error:
        raise HTTPException(400, f"The body is not valid JSON: {one_line(str(error), 200)}.") from error
    if not isinstance(content, dict) or set(content) != {"url"} or not isinstance(content["url"], str):
        raise HTTPException(400, 'The body must be JSON with one key, such as {"url": "https://..."}.')
    url: str = content["url"]
    return url


async def result_for_client(request: Request, future: asyncio.Future[T], seconds: float) -> T:
    """Return the result of ``future``, or cancel it if nobody waits for it.

    Raises:
        TimeoutError: ``seconds`` have passed.
        ClientDisconnect: the client has disconnected.
    """

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    disconnect = asyncio.create_task(wait_for_disconnect())
    futures: set[asyncio.Future[Any]] = {future, disconnect}
    try:
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if disconnect.done():
            raise ClientDisconnect
        raise TimeoutError
    finally:
        future.cancel()
        disconnect.cancel()


def create_app(predictor: Predictor, options: ServeOptions) -> FastAPI:
    """Create the application: ``/predict``, ``/health``, ``/metrics``, and the description of the network at ``/``.

    Args:
        predictor: network, views, batch size and decoder. The caller closes it.
        options: limits and the name of the network.
    """
    service = Service(predictor, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher = Batcher(predictor, service.metrics.batch.observe)
        yield
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(title=options.name, version=zoo.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(CountRequests, metrics=service.metrics)
    add_error_handlers(app)
    description = describe(predictor, options)

    @app.get("/")
    async def model() -> dict[str, Any]:
        """Describe the network: classes, protocol, views and limits."""
        return description

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are answered."""
        if service.batcher is None or not service.batcher.alive:
            raise HTTPException(503, "The network is not running.")
        return {"status": "ready", "model": options.name, "device": str(predictor.device)}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict")
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = options.top) -> dict[str, Any]:
        """Classify the video in the body, or at the URL in a JSON body."""
        prediction, seconds = await service.predict(request)
        heads = {name: format_classes(head, top) for name, head in prediction.heads.items()}
        return {
            "model": options.name,
            "predictions": format_classes(prediction, top),
            **({"heads": heads} if heads else {}),
            "views": description["views"],
            "seconds": {step: round(value, 4) for step, value in seconds.items()},
        }

    return app


def format_classes(prediction: Prediction, top: int) -> list[dict[str, Any]]:
    """Return the most probable classes."""
    return [{"label": label, "score": score} for label, score in prediction.top(top)]


def describe(predictor: Predictor, options: ServeOptions) -> dict[str, Any]:
    """Return what ``/`` answers."""
    protocol = predictor.protocol
    return {
        "model": options.name,
        "version": zoo.__version__,
        "device": str(predictor.device),
        "labels": list(predictor.model.labels or ()),
        "views": {"clips": protocol.clips, "crops": protocol.crops},
        "protocol": protocol.to_dict(),
        "max_upload": options.max_upload,
        "allow_url": list(options.allow_url),
    }


def add_error_handlers(app: FastAPI) -> None:
    """Answer errors with ``{"error": message}``."""

    def respond(request: Request, status: int, message: str, headers: Any = None) -> Response:
        has_body = request.method not in ("GET", "HEAD") and not getattr(request.state, "body_read", False)
        return ErrorResponse(status, message, body_read=not has_body, headers=headers)

    async def http_error(request: Request, error: Any) -> Response:
        return respond(request, error.status_code, error.detail, error.headers)

    async def invalid_query(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        return respond(request, 422, one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 200))

    async def disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    async def internal_error(request: Request, error: Exception) -> Response:
        return respond(request, 500, "Internal error; the log of the server has the details.")

    app.add_exception_handler(StarletteHTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_query)
    app.add_exception_handler(ClientDisconnect, disconnected)
    app.add_exception_handler(Exception, internal_error)


def create_server(app: FastAPI, options: ServeOptions) -> uvicorn.Server:
    """Create the server of an application. On SIGTERM and Ctrl-C, it completes the running requests."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=round(2 * options.timeout + LINGER + 1),
    )
    return uvicorn.Server(config)
