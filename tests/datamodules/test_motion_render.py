"""MotionClips: rendered clips, written files, and no cue to the label except the order of frames."""

import itertools
import json
import math
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules import motion_render, motionclips
from datamodules.motion_render import MOTION_CLASSES, MOTION_PAIRS, STYLES, render_clip
from datamodules.motionclips import write_motion_clips, write_video
from zoo.errors import DataError

SMALL = dict(
    classes=("appears", "vanishes"),
    clips_per_class={"train": 2, "test": 1},
    frames=6,
    size=32,
    progress=False,
)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def labeled_mass(clip: np.ndarray) -> np.ndarray:
    """Distance of each pixel from the gray of the background, (T, H, W); 0 below a threshold."""
    gray = clip.astype(float).mean(axis=3)
    distance = np.abs(gray - np.median(gray, axis=(1, 2), keepdims=True))
    return np.where(distance > 50, distance, 0)


def measure(clip: np.ndarray) -> np.ndarray:
    """Center x and y, spread and amount of the labeled mass, (T, 4)."""
    mass = labeled_mass(clip)
    positions = np.arange(clip.shape[1])
    total = mass.sum(axis=(1, 2)) + 1e-6
    x = (mass.sum(axis=1) * positions).sum(axis=1) / total
    y = (mass.sum(axis=2) * positions).sum(axis=1) / total
    spread = ((positions - x[:, None]) ** 2 * mass.sum(axis=1)).sum(axis=1) / total
    spread += ((positions - y[:, None]) ** 2 * mass.sum(axis=2)).sum(axis=1) / total
    return np.stack([x, y, np.sqrt(spread), total / 1000], axis=1)


def test_names_are_six_pairs_in_order():
    assert len(MOTION_CLASSES) == len(set(MOTION_CLASSES)) == 12
    assert [name for pair in MOTION_PAIRS for name in pair] == list(MOTION_CLASSES)


@pytest.mark.parametrize("style", STYLES)
def test_second_class_of_a_pair_is_the_first_reversed(style):
    for first, second in MOTION_PAIRS:
        forwards = render_clip(first, 5, frames=9, size=48, style=style)
        assert forwards.shape == (9, 48, 48, 3) and forwards.dtype == np.uint8
        backwards = render_clip(second, 5, frames=9, size=48, style=style)
        assert np.array_equal(backwards, forwards[::-1])
        assert not np.array_equal(forwards, forwards[::-1])


def test_equal_arguments_give_equal_clips_and_others_do_not():
    clip = render_clip("meets", 7)
    assert clip.shape == (24, 64, 64, 3)
    assert np.array_equal(clip, render_clip("meets", 7))
    others = [render_clip("meets", 8), render_clip("approaches", 7), render_clip("meets", 7, style="b")]
    assert all(np.abs(clip.astype(int) - other).mean() > 3 for other in others)


def test_scene_does_not_depend_on_the_global_generator():
    np.random.seed(1)
    first = render_clip("appears", 2, frames=4, size=32)
    np.random.seed(2)
    assert np.array_equal(first, render_clip("appears", 2, frames=4, size=32))


def test_styles_have_no_element_in_common():
    for field in ("shapes", "textures", "backgrounds", "hues"):
        assert not set(getattr(STYLES["a"], field)) & set(getattr(STYLES["b"], field))
    ranges = sorted(STYLES["a"].hues + STYLES["b"].hues)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
    assert all(set(style.oriented) <= set(style.shapes) for style in STYLES.values())


@pytest.mark.parametrize("style", STYLES)
def test_clips_show_the_motion_of_their_label(style):
    # Means over scenes, because the background of a single scene may distort its measures.
    change = {}
    for label in MOTION_CLASSES:
        measures = [measure(render_clip(label, 50 + i, frames=8, style=style)) for i in range(12)]
        change[label] = np.mean([clip[-2:].mean(axis=0) - clip[:2].mean(axis=0) for clip in measures], axis=0)
    x, y, spread, amount = range(4)
    assert change["moves_left"][x] < -15 and change["moves_right"][x] > 15
    assert change["moves_up"][y] < -15 and change["moves_down"][y] > 15
    assert change["approaches"][spread] > 3 and change["recedes"][spread] < -3
    assert change["appears"][amount] > 5 and change["vanishes"][amount] < -5
    assert change["meets"][spread] < -5 and change["parts"][spread] > 5
    for label in ("moves_left", "moves_right", "moves_up", "moves_down", "meets", "parts"):
        assert abs(change[label][amount]) < 5, label


@pytest.mark.parametrize("style", STYLES)
def test_turning_is_clockwise_on_screen_and_slow_enough_to_follow(style):
    time = np.linspace(0, 1, 8)
    for i in range(20):
        rng = np.random.default_rng(i)
        (actor,) = motion_render._actors(rng, STYLES[style], time, "turns_clockwise")
        steps = np.degrees(np.diff(actor.angle))
        assert actor.shape in STYLES[style].oriented
        assert (steps > 0).all() and steps.max() <= 35 and 120 <= steps.sum() <= 240
    # A growing angle turns the long axis of the shape from right to down (y points down).
    still = motion_render._sprite(np.random.default_rng(0), STYLES["a"], ("bar",), 2, True)
    white = motion_render.replace(still, colors=np.ones((2, 3)), angle=np.radians([0.0, 30.0]))
    video = np.zeros((2, 64, 64, 3), np.float32)
    motion_render._paint(video, white)
    at = np.arange(64) - 31.5
    products = (video[..., 0] * at * at[:, None]).sum(axis=(1, 2))
    assert abs(products[0]) < 1e-2 * products[1] and products[1] > 0


@pytest.mark.parametrize("shape", motion_render.SHAPES)
def test_shapes_are_filled_and_lie_within_their_reach(shape):
    x, y = np.meshgrid(*[np.linspace(-2.5, 2.5, 201)] * 2)
    inside = motion_render.SHAPES[shape](x, y) < 0
    assert inside.any() and np.hypot(x, y)[inside].max() <= motion_render.REACH


def test_single_frames_have_no_cue_to_the_label():
    for first, second in MOTION_PAIRS:
        stats = []
        for label, offset in ((first, 0), (second, 1000)):
            clips = [render_clip(label, offset + i, frames=6, size=32) for i in range(40)]
            values = [[*clip.mean(axis=(0, 1, 2)), clip.std(), *measure(clip).mean(axis=0)] for clip in clips]
            stats.append(np.array(values))
        gap = stats[0].mean(axis=0) - stats[1].mean(axis=0)
        error = np.sqrt(stats[0].var(axis=0) / 40 + stats[1].var(axis=0) / 40)
        assert (np.abs(gap) < 4 * error).all(), (first, gap / error)


def test_video_is_intra_only_complete_and_close_to_the_rendering(tmp_path):
    for label in ("moves_left", "turns_clockwise", "meets"):
        for style in STYLES:
            clip = render_clip(label, 3, style=style)
            path = tmp_path / f"{label}_{style}.mp4"
            write_video(path, clip, fps=10)
            decoded = decode(path)
            assert decoded.shape == clip.shape
            error = ((decoded.astype(float) - clip) ** 2).mean()
            assert 10 * math.log10(255**2 / error) > 30
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
                assert stream.average_rate == 10 and stream.frames == len(clip)
                packets = [packet for packet in container.demux(stream) if packet.size]
            assert len(packets) == len(clip) and all(packet.is_keyframe for packet in packets)
            assert all(packet.pts == packet.dts for packet in packets)


def test_compression_does_not_reveal_the_direction_of_time(tmp_path):
    clip = render_clip("approaches", 11)
    write_video(tmp_path / "forwards.mp4", clip)
    write_video(tmp_path / "backwards.mp4", clip[::-1])
    assert np.array_equal(decode(tmp_path / "forwards.mp4"), decode(tmp_path / "backwards.mp4")[::-1])


@pytest.mark.parametrize("shape", [(2, 31, 32, 3), (2, 32, 31, 3)])
def test_odd_sizes_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=f"{shape[2]}x{shape[1]}"):
        write_video(tmp_path / "odd.mp4", np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 32, 32), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3))]
)
def test_arrays_other_than_rgb_bytes_are_refused(tmp_path, frames):
    with pytest.raises(DataError, match="uint8"):
        write_video(tmp_path / "wrong.mp4", frames)


def test_failed_writing_keeps_the_old_file_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    clip = render_clip("appears", 0, frames=6, size=32)
    write_video(path, clip)
    before = path.read_bytes()
    convert, calls = av.VideoFrame.from_ndarray, []

    class Failing:
        @staticmethod
        def from_ndarray(array, format):
            calls.append(1)
            if len(calls) == 4:
                assert len(list(tmp_path.iterdir())) == 2, "the temporary file is next to the video"
                raise KeyboardInterrupt
            return convert(array, format=format)

    monkeypatch.setattr(motionclips.av, "VideoFrame", Failing)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, clip)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"] and path.read_bytes() == before


def test_second_call_rewrites_nothing(tmp_path):
    root = tmp_path / "clips"
    assert write_motion_clips(root, **SMALL) == root
    videos = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.mp4"))
    assert videos == [
        "test/appears/appears_0000.mp4",
        "test/vanishes/vanishes_0000.mp4",
        "train/appears/appears_0000.mp4",
        "train/appears/appears_0001.mp4",
        "train/vanishes/vanishes_0000.mp4",
        "train/vanishes/vanishes_0001.mp4",
    ]
    manifest = json.loads((root / "motionclips.json").read_text())
    assert manifest["clips_per_class"] == {"train": 2, "test": 1} and manifest["seed"] == 0
    assert not [p for p in root.rglob("*") if p.name.startswith(".")]
    drawn = [decode(root / video) for video in videos]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            # The scenes differ, also when one is played backwards.
            assert np.abs(one.astype(int) - other).mean() > 3
            assert np.abs(one[::-1].astype(int) - other).mean() > 3
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    write_motion_clips(root, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()} == times


def test_equal_arguments_write_equal_pixels_in_another_folder(tmp_path):
    one, other = (write_motion_clips(tmp_path / name, **SMALL) for name in ("one", "other"))
    for path in one.rglob("*.mp4"):
        assert np.array_equal(decode(path), decode(other / path.relative_to(one)))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"style": "b"}, {"clips_per_class": {"train": 2}}, {"classes": ("appears",)}]
)
def test_other_arguments_in_the_same_folder_are_refused(tmp_path, change):
    write_motion_clips(tmp_path, **SMALL)
    with pytest.raises(ValueError, match=rf"{next(iter(change))} is .*, not .*another folder"):
        write_motion_clips(tmp_path, **SMALL | change)


def test_interrupted_writing_is_completed_by_the_next_call(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = []

        def failing(path, frames, fps):
            if len(written) == 3:
                raise OSError("disk full")
            written.append(path)
            write_video(path, frames, fps)

        patch.setattr(motionclips, "write_video", failing)
        with pytest.raises(OSError, match="disk full"):
            write_motion_clips(tmp_path, **SMALL)
    assert len(list(tmp_path.rglob("*.mp4"))) == 3 and not (tmp_path / "motionclips.json").exists()
    write_motion_clips(tmp_path, **SMALL)
    assert len(list(tmp_path.rglob("*.mp4"))) == 6 and (tmp_path / "motionclips.json").exists()


def test_videos_of_other_interrupted_arguments_are_refused(tmp_path):
    write_motion_clips(tmp_path, **SMALL)
    (tmp_path / "motionclips.json").unlink()
    with pytest.raises(DataError, match="appears_0001.mp4"):
        write_motion_clips(tmp_path, **SMALL | {"clips_per_class": {"train": 1, "test": 1}})


def test_unreadable_manifest_is_reported(tmp_path):
    (tmp_path / "motionclips.json").write_text("{")
    with pytest.raises(DataError, match="motionclips.json"):
        write_motion_clips(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("appears", "explodes")}, "'explodes'.*moves_left"),
        ({"classes": ()}, "classes is empty"),
        ({"classes": ("meets", "meets")}, "'meets' more than once"),
        ({"clips_per_class": {"train": 1, "dev": 1}}, "'dev'.*train, val, test"),
        ({"clips_per_class": {"train": 0}}, "'train'.*0"),
        ({"clips_per_class": {}}, "clips_per_class is empty"),
        ({"style": "c"}, "'c'.*a, b"),
        ({"size": 33}, "33"),
        ({"size": 8}, "8"),
        ({"frames": 1}, "frames=1"),
        ({"fps": 0}, "fps=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_invalid_arguments_are_refused_before_writing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_motion_clips(tmp_path / "clips", **SMALL | change)
    assert not (tmp_path / "clips").exists()


def test_render_clip_refuses_unknown_names():
    with pytest.raises(DataError, match="'jumps'.*moves_left"):
        render_clip("jumps", 0)
