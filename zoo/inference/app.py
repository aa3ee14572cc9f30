"""A web page that classifies a video: ``build_page`` and ``run_app``. Requires the extra ``app`` (Gradio)."""

from __future__ import annotations

import contextlib
import html
import os
import signal
import tempfile
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import zoo
from zoo.errors import DataError, ZooError
from zoo.inference.app_networks import AppNetworks
from zoo.inference.batching import LIMITS
from zoo.inference.inputs import open_input
from zoo.inference.listener import bind, server_url
from zoo.inference.predictor import Prediction, Predictor, make_prediction
from zoo.inference.scores import average_views
from zoo.inference.windows import TimedPrediction, clip_seconds, timeline
from zoo.text import printable
from zoo.video.decoding import Reader, read_with
from zoo.video.source import Source
from zoo.video.views import views_of

TOP = 5  # classes shown
MAX_SECONDS = 600.0  # of a video
MAX_WINDOWS = 60  # of a timeline; longer videos have longer windows
TIME_LIMIT = 60.0  # seconds for decoding a video, and again for its timeline
QUEUE = 32  # visitors that wait; others get an error
KEEP_SECONDS = 900  # uploads and results are then removed
ERROR_SECONDS = 60  # that a message stays on the page
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # of the visitor's system
MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
COLORS = ("#4c78a8", "#f58518", "#e45756", "#54a24b", "#b279a2")  # of the classes in the chart, most probable first
INTRODUCTION = """
# Video classification
Upload or record a video, then choose **Classify**. Formats that your browser cannot play, such as AVI, work as well.
"""
# The page loads nothing from other hosts. Gradio's charts compile functions, and its scripts are in part blobs.
CONTENT_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
# Gradio's button that cuts a video downloads a program from another host.
CSS = """
.gradio-container { width: 100% !important; max-width: 1200px !important; margin: 0 auto; }
button[aria-label="Trim video to selection"] { display: none; }
video { max-height: 360px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; }
.legend span::before { content: "\\25A0"; color: var(--class-color); margin-right: 6px; }
"""


class VideoApp:
    """Functions that the page calls.

    Args:
        networks: networks of the page.
        folder: folder of uploads and results; other files are not read.
    """

    def __init__(self, networks: AppNetworks, folder: Path) -> None:
        self.networks, self.folder = networks, folder

    def classify(self, video: str | None, name: str) -> dict[str, float]:
        """Return the most probable classes of an uploaded video with their scores.

        Raises:
            gr.Error: the video cannot be read or exceeds a limit, or the network cannot be loaded.
        """
        with readable_errors():
            source = uploaded(video, self.folder)
            predictor = self.networks.predictor(name)
            return best_classes(predict_upload(predictor, source))

    def over_time(self, video: str | None, name: str) -> pd.DataFrame | None:
        """Return the table of ``score_table``, or None if the video is not longer than one window.

        Raises:
            gr.Error: as ``classify``.
        """
        with readable_errors():
            source = uploaded(video, self.folder)
            predictor = self.networks.predictor(name)
            windows = predict_windows(predictor, source)
            return score_table(windows) if len(windows) > 1 else None

    def explain(self, video: str | None, name: str) -> tuple[str, str]:
        """Explain the most probable class; returns the path of a video and a sentence.

        The video shows the clip in the middle of the upload, and which pixels the score is based on.

        Raises:
            gr.Error: as ``classify``, or the network has no feature maps to explain.
        """
        with readable_errors():
            source = uploaded(video, self.folder)
            predictor = self.networks.predictor(name)
            measure_duration(predictor, source)
            explanation = zoo.explain(predictor, source, time_limit=TIME_LIMIT)
            path = Path(tempfile.mkdtemp(dir=self.folder)) / "explanation.mp4"
            explanation.save(path)
            return str(path), printable(
                f"{explanation.label}, {100 * explanation.score:.0f} %. {explanation.summary()}"
            )


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Convert errors of this package to messages of the page."""
    try:
        yield
    except ZooError as error:
        message = html.escape(printable(str(error)))  # the page interprets HTML
        raise gr.Error(message, duration=ERROR_SECONDS, print_exception=False) from error


def uploaded(video: str | None, folder: Path) -> Source:
    """Return an uploaded file as a video. Its name in messages has no folder.

    Raises:
        DataError: no upload was selected, the file is outside the folder of uploads, or it was removed after
            ``KEEP_SECONDS``.
    """
    if video is None:
        raise DataError("No video is selected. Upload or record one.")
    if not is_inside(video, folder):
        raise DataError("Only uploaded files are accepted. Upload the video.")
    if not Path(video).is_file():
        raise DataError(f"The upload expired after {KEEP_SECONDS // 60} minutes. Upload the video again.", "missing")
    return Source(video, name=Path(video).name)


def predict_upload(predictor: Predictor, source: Source) -> Prediction:
    """Classify a video within the limits of the page.

    Raises:
        DataError: the video cannot be read or exceeds a limit.
    """

    def read(reader: Reader) -> Any:
        check_duration(reader, str(source))
        return views_of(reader, predictor.protocol, str(source)).frames

    views = read_with(
        lambda deadline: open_input(source, decoder=predictor.decoder, deadline=deadline, limits=LIMITS),
        read,
        str(source),
        TIME_LIMIT,
    )
    return make_prediction(predictor.model, str(source), average_views(predictor.logits(views), predictor.protocol))


def check_duration(reader: Reader, name: str) -> float:
    """Return the duration of an open video in seconds.

    Raises:
        DataError: it is longer than ``MAX_SECONDS``.
    """
    seconds = float(reader.times()[-1]) + 1 / reader.fps
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{name} lasts {seconds / 60:.1f} minutes; at most {MAX_SECONDS / 60:g} minutes are supported. Cut it, or "
            "use `tempozoo predict --window`."
        )
    return seconds


def measure_duration(predictor: Predictor, source: Source) -> float:
    """Return the duration of a video in seconds.

    Raises:
        DataError: the video cannot be read or exceeds a limit.
    """
    return read_with(
        lambda deadline: open_input(source, decoder=predictor.decoder, deadline=deadline, limits=LIMITS),
        lambda reader: check_duration(reader, str(source)),
        str(source),
        TIME_LIMIT,
    )


def predict_windows(predictor: Predictor, source: Source) -> list[TimedPrediction]:
    """Classify overlapping windows of a video; the result ends early if that takes longer than ``TIME_LIMIT``.

    Returns:
        The windows; none if the video is not longer than one window.

    Raises:
        DataError: the video cannot be read or exceeds a limit.
    """
    deadline = time.monotonic() + TIME_LIMIT
    seconds = measure_duration(predictor, source)
    clip = clip_seconds(predictor.protocol)
    if seconds <= clip:
        return []
    window = max(clip, 2 * seconds / MAX_WINDOWS)
    windows: list[TimedPrediction] = []
    try:
        parts: Any = timeline(predictor, source, window=window, stride=window / 2, deadline=deadline)
        with contextlib.closing(parts):
            for part in parts:
                windows.append(part)
                if time.monotonic() > deadline:
                    break
    except DataError:  # includes a passed deadline
        if not windows or time.monotonic() < deadline:
            raise
    if windows and windows[-1].end < seconds - 1e-3:
        gr.Warning(f"The chart ends at {windows[-1].end:.0f} s: the time limit of {TIME_LIMIT:g} s has passed.")
    return windows


def best_classes(prediction: Prediction, top: int = TOP) -> dict[str, float]:
    """Return the most probable classes and their scores; with several classifiers, those of each, with its name."""
    if not prediction.heads:
        return {printable(label): score for label, score in prediction.top(top)}
    return {
        printable(f"{head}: {label}"): score
        for head, part in prediction.heads.items()
        for label, score in part.top(max(1, top // len(prediction.heads)))
    }


def score_table(windows: Sequence[TimedPrediction], top: int = TOP) -> pd.DataFrame:
    """Return the scores of the classes that are most probable at any time.

    Returns:
        One row per window and class: seconds (center of the window), score, class, end (of the window, seconds).
    """
    scores = [dict(zip(window.labels, window.scores, strict=True)) for window in windows]
    best = {label: max(row[label] for row in scores) for label in scores[0]}
    labels = sorted(best, key=lambda label: -best[label])[:top]
    rows = [
        ((window.start + window.end) / 2, row[label], printable(label), window.end)
        for window, row in zip(windows, scores, strict=True)
        for label in labels
    ]
    return pd.DataFrame(rows, columns=["seconds", "score", "class", "end"]).round({"seconds": 2, "score": 4})


# page --------------------------------------------------------------------------------------------------------------


def build_page(networks: AppNetworks, folder: Path) -> gr.Blocks:
    """Create the page. Uploads and results are removed after ``KEEP_SECONDS``.

    Args:
        networks: networks of the page.
        folder: folder of uploads and results; other files are not read.
    """
    app = VideoApp(networks, folder)
    with gr.Blocks(title="tempozoo", analytics_enabled=False, delete_cache=(60, KEEP_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload", "webcam"])
                name = gr.Dropdown(list(networks.names), value=networks.names[0], label="Network", filterable=True)
                button = gr.Button("Classify", variant="primary")
            with gr.Column():
                labels = gr.Label(label="Labels", num_top_classes=TOP)
                with gr.Column(visible=False) as chart_column:
                    chart = create_chart()
                    legend = gr.HTML()
        with gr.Row():
            with gr.Column(visible=False) as explanation_column:
                gr.Markdown("### Pixels that the best label is based on")
                overlay = gr.Video(show_label=False, interactive=False, autoplay=True, loop=True)
                summary = gr.Textbox(show_label=False, container=False, interactive=False, lines=2)
            with gr.Column():
                gr.Markdown("### About the network")
                facts = gr.Markdown(networks.describe(networks.names[0]))
        for component in (video, name):
            accept_uploads_only(component, folder)

        def show_labels(video: str | None, name: str) -> tuple[Any, Any, Any, str]:
            scores = app.classify(video, name)
            return scores, gr.Column(visible=False), gr.Column(visible=False), networks.describe(name)

        def show_chart(video: str | None, name: str) -> tuple[Any, Any, Any]:
            table = app.over_time(video, name)
            if table is None:
                return gr.Column(visible=False), None, ""
            colors = dict(zip(table["class"].unique(), COLORS, strict=False))  # a chart may have fewer classes
            plot = gr.LinePlot(value=table, color_map=colors, x_lim=[0, float(table["end"].max())])
            return gr.Column(visible=True), plot, legend_html(colors)

        def show_explanation(video: str | None, name: str) -> tuple[Any, str, str]:
            return gr.Column(visible=True), *app.explain(video, name)

        inputs: Any = [video, name]
        shared: Any = {"concurrency_id": "network", "concurrency_limit": 1}  # one request at a time
        name.change(networks.describe, name, facts, api_name="describe")
        first = button.click(
            show_labels, inputs, [labels, chart_column, explanation_column, facts], show_progress_on=labels,
            api_name="classify", **shared,
        )  # fmt: skip
        second = first.success(
            show_chart, inputs, [chart_column, chart, legend], show_progress_on=chart, api_name="over_time",
            **shared,
        )  # fmt: skip
        second.success(
            show_explanation, inputs, [explanation_column, overlay, summary], show_progress_on=overlay,
            api_name="explain", **shared,
        )  # fmt: skip
    page.queue(max_size=QUEUE)
    return page


def create_chart() -> gr.LinePlot:
    """Create the chart of scores over time, without a legend: Gradio cuts off long ones."""
    return gr.LinePlot(
        x="seconds",
        y="score",
        color="class",
        title="Labels over time",
        x_title="seconds",
        y_title="score",
        y_lim=[0, 1],
        colors_in_legend=[],
        height=280,
    )


def legend_html(colors: Mapping[str, str]) -> str:
    """Return the legend of a chart: classes with their colors."""
    items = [f'<span style="--class-color: {color}">{html.escape(name)}</span>' for name, color in colors.items()]
    return f'<div class="legend">{"".join(items)}</div>'


def accept_uploads_only(component: Any, folder: Path) -> None:
    """Make an input refuse paths and URLs that a client sends in place of an upload.

    Gradio would copy any file of this machine, because it checks paths only in pages of its own server, and would
    download URLs without a size limit.
    """
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> str | None:
        if path is not None and not is_inside(path, folder):
            raise gr.Error("Only uploaded files are accepted. Upload the video.", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload


def is_inside(path: str | Path, folder: Path) -> bool:
    """Whether a path, after resolving links and "..", is inside a folder."""
    return Path(path).resolve().is_relative_to(folder.resolve())


# server ------------------------------------------------------------------------------------------------------------


class PageHeaders:
    """ASGI middleware that adds the content security policy to responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", CONTENT_POLICY.encode())]
            await send(message)

        await self.app(scope, receive, add_headers)


def create_app(networks: AppNetworks, folder: Path, max_upload: int) -> FastAPI:
    """Create the application with the page at ``/``.

    Args:
        networks: networks of the page.
        folder: folder of uploads and results. Gradio takes it from an environment variable, which is set here.
        max_upload: bytes of an uploaded video.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    app = FastAPI(title="tempozoo", version=zoo.__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(PageHeaders)
    return gr.mount_gradio_app(
        app,
        build_page(networks, folder),
        path="/",
        max_file_size=max_upload,
        theme=gr.themes.Default(font=FONTS, font_mono=MONO_FONTS),
        css=CSS,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


def run_app(
    names: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = False,
    max_upload: int = 64 << 20,
    **options: Any,
) -> None:
    """Serve the page until SIGTERM or Ctrl-C. Uploads are in a temporary folder, which is removed at the end.

    Args:
        names: networks to choose from, as of ``tempozoo app --from``; none: the trained networks of the index.
        host, port: address to listen on.
        browser: open the page in a browser.
        max_upload: bytes of an uploaded video.
        options: of ``Predictor``.

    Raises:
        ZooError: the address is in use, or a network cannot be loaded.
    """
    with bind(host, port) as listener, tempfile.TemporaryDirectory(prefix="tempozoo-app-") as folder:
        networks = AppNetworks(names, **options)
        config = uvicorn.Config(
            create_app(networks, Path(folder), max_upload),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        listener.listen()
        url = server_url(listener, host)
        print(f"Open {url} in a browser; Ctrl-C ends the page.", flush=True)
        if browser:
            webbrowser.open(url)
        # uvicorn raises the signal again after its shutdown; the default action would leave the temporary folder
        signal.signal(signal.SIGTERM, exit_at_signal)
        uvicorn.Server(config).run(sockets=[listener])


def exit_at_signal(number: int, frame: Any) -> None:
    """Signal handler that ends the process after its cleanup."""
    raise SystemExit(128 + number)
