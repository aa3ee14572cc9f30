"""The protocol of every published checkpoint, figure by figure, against the publisher's values.

Sources: the recipe and result tables of arXiv 2110.06178 and 2308.05787 and the TAdaConv MODEL_ZOO.md @75b7839; the TAM
README.md and scripts/test_*.sh @5fcb46f; MMAction2's configs of the names that the files have, and its metafile.yml
@4d6c9347; pytorchvideo's docs/source/model_zoo.md @f3142bb and PySlowFast's configs/*/pytorchvideo.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

import zoo
from zoo.errors import ConfigError
from zoo.protocol import DEFAULT_PROTOCOL, Protocol

HALF = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# MMAction2's [123.675, 116.28, 103.53] and [58.395, 57.12, 57.375] of 255; its TANet of 1.x has 103.5
BLUE_103_5 = ((0.485, 0.456, 103.5 / 255), IMAGENET[1])

# entries | frames, sampling, interval | short side, crop, clips x crops | average | mean and std | training crop
# fmt: off
PUBLISHED: list[tuple[str, int, str, int | None, int, int, str, str, tuple, int]] = [
    # V1, Table of Kinetics-400: 10x3 at 256, 8x8 and 16x5; Something-Something V2: 2x3 at 256
    ("tada2d_r50.k400_8x8", 8, "interval", 8, 256, 256, "10x3", "prob", HALF, 224),
    ("tada2d_r50.k400_16x5", 16, "interval", 5, 256, 256, "10x3", "prob", HALF, 224),
    ("tada2d_r50.ssv2_8f", 8, "segment", None, 256, 256, "2x3", "prob", HALF, 224),
    ("tada2d_r50.ssv2_16f", 16, "segment", None, 256, 256, "2x3", "prob", HALF, 224),
    # V2: 4x3 on Kinetics, 2x3 on Something-Something; ConvNeXt at 256, every 5th frame; TAdaFormer at 224, segments
    ("tadaconvnextv2_*.*k_k400_16f", 16, "interval", 5, 256, 256, "4x3", "prob", HALF, 224),
    ("tadaconvnextv2_*.*k_k400_32f", 32, "interval", 5, 256, 256, "4x3", "prob", HALF, 224),
    ("tadaconvnextv2_*_ssv2_16f", 16, "segment", None, 256, 256, "2x3", "prob", HALF, 224),
    ("tadaconvnextv2_*_ssv2_32f", 32, "segment", None, 256, 256, "2x3", "prob", HALF, 224),
    ("tadaformer_*.clip_k*_16f", 16, "segment", None, 224, 224, "4x3", "prob", CLIP, 224),
    ("tadaformer_*.clip_k*_32f", 32, "segment", None, 224, 224, "4x3", "prob", CLIP, 224),
    ("tadaformer_*.clip_k*_64f", 64, "segment", None, 224, 224, "4x3", "prob", CLIP, 224),
    ("tadaformer_*.clip_ssv2_16f", 16, "segment", None, 224, 224, "2x3", "prob", CLIP, 224),
    ("tadaformer_*.clip_ssv2_32f", 32, "segment", None, 224, 224, "2x3", "prob", CLIP, 224),
    # test_tam_kinetics_rgb_8f.sh: dense-10, 3 crops, full_res; somethingv2: uniform-2, 3 crops, full_res; something:
    # uniform-1, 1 crop of 224; no softmax. 64 // T frames apart
    ("tanet_r50.k400_8f", 8, "dense", 8, 256, 256, "10x3", "logit", IMAGENET, 224),
    ("tanet_r50.k400_16f", 16, "dense", 4, 256, 256, "10x3", "logit", IMAGENET, 224),
    ("tanet_r50.ssv1_8f", 8, "uniform", None, 256, 224, "1x1", "logit", IMAGENET, 224),
    ("tanet_r50.ssv1_16f", 16, "uniform", None, 256, 224, "1x1", "logit", IMAGENET, 224),
    ("tanet_r50.ssv2_8f", 8, "uniform", None, 256, 256, "2x3", "logit", IMAGENET, 224),
    ("tanet_r50.ssv2_16f", 16, "uniform", None, 256, 256, "2x3", "logit", IMAGENET, 224),
    # tanet: DenseSampleFrames with its 10 places, ThreeCrop 256; twice_sample, ThreeCrop 256; average_clips prob
    ("tanet_r50.mma_k400_8f", 8, "dense", 8, 256, 256, "10x3", "prob", BLUE_103_5, 224),
    ("tanet_r50.mma_ssv1_8f", 8, "twice", None, 256, 256, "2x3", "prob", BLUE_103_5, 224),
    ("tanet_r50.mma_ssv1_16f", 16, "twice", None, 256, 256, "2x3", "prob", BLUE_103_5, 224),
    ("tanet_r50.mma0_k400_8f", 8, "dense", 8, 256, 256, "10x3", "prob", IMAGENET, 224),
    ("tanet_r50.mma0_ssv1_8f", 8, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224),
    ("tanet_r50.mma0_ssv1_16f", 16, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224),
    # tsn: 25 frames x TenCrop 224, average_clips None: about as many frames in clips of the trained length
    ("c2d_r50.mma_k400_3f", 3, "spread", None, 256, 224, "8x10", "logit", IMAGENET, 224),
    ("c2d_r50.mma_k400_5f", 5, "spread", None, 256, 224, "5x10", "logit", IMAGENET, 224),
    ("c2d_r*.mma_*_8f", 8, "spread", None, 256, 224, "3x10", "logit", IMAGENET, 224),
    ("c2d_r50.mma_ssv2_16f", 16, "spread", None, 256, 224, "2x10", "logit", IMAGENET, 224),
    ("c2d_r50.mma_k400_dense_5f", 5, "dense", 12, 256, 224, "10x1", "logit", IMAGENET, 224),
    # tsm: one clip x TenCrop 224 on Kinetics, dense 10 x 10; twice_sample x ThreeCrop 256 on Something-Something
    ("tsm_r50.mma_k400_8f*", 8, "twice", None, 256, 224, "1x10", "prob", IMAGENET, 224),
    ("tsm_r50.mma_nl_*_k400_8f", 8, "twice", None, 256, 224, "1x10", "prob", IMAGENET, 224),
    ("tsm_r50.mma_k400_16f", 16, "twice", None, 256, 224, "1x10", "prob", IMAGENET, 224),
    ("tsm_r50.mma_k400_dense_8f", 8, "dense", 8, 256, 224, "10x10", "prob", IMAGENET, 224),
    ("tsm_r*.mma_ssv2_8f", 8, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224),
    ("tsm_r50.mma_ssv2_16f", 16, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224),
    # pytorchvideo: "frame length x sample rate" of its list (of the slow pathway for SlowFast: its 32 or 64 frames are
    # 2 apart), 10x3 at 256, X3D at 182, 256, 356; MViT 5x1 at 224 of 256
    ("ptv_c2d_r50.k400_8x8", 8, "duration", 8, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_i3d_r50.k400_8x8", 8, "duration", 8, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_slow_r50.k400_4x16", 4, "duration", 16, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_slow_r50.k400_8x8", 8, "duration", 8, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_slowfast_r50.k400_*", 32, "duration", 2, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_slowfast_r101.k400_8x8", 32, "duration", 2, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_slowfast_16x8_r101.k400_16x8", 64, "duration", 2, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_csn_r101.k400_32x2", 32, "duration", 2, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_r2plus1d_r50.k400_16x4", 16, "duration", 4, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_x3d_xs.k400_4x12", 4, "duration", 12, 182, 182, "10x3", "prob", HALF, 160),
    ("ptv_x3d_s.k400_13x6", 13, "duration", 6, 182, 182, "10x3", "prob", HALF, 160),
    ("ptv_x3d_m.k400_16x5", 16, "duration", 5, 256, 256, "10x3", "prob", HALF, 224),
    ("ptv_x3d_l.k400_16x5", 16, "duration", 5, 356, 356, "10x3", "prob", HALF, 312),
    ("ptv_mvit_b_16x4.k400_16x4", 16, "offset", 4, 256, 224, "5x1", "prob", HALF, 224),
    ("ptv_mvit_b_32x3.k400_32x3", 32, "offset", 3, 256, 224, "5x1", "prob", HALF, 224),
    ("ptv_slow_r50.ssv2_8x8", 8, "middle", None, 256, 256, "1x3", "prob", HALF, 224),
    ("ptv_slowfast_r50.ssv2_8x8", 32, "middle", None, 256, 256, "1x3", "prob", HALF, 224),
    # our own: configs/motionclips8.yaml
    ("tanet_r18.motionclips8", 8, "segment", None, 64, 64, "1x1", "prob", HALF, 64),
]
# fmt: on
# As above, with all names of a row. Sources: TAdaConv @75b7839 (MoSI: views not stated),
# MMAction2's configs of 0.x @71a938ab and 1.x @4d6c9347: CenterCrop, ThreeCrop and TenCrop are 1, 3 and 10 crops,
# twice_sample is 2 clips. TSN reads 25 frames in Kinetics: about as many frames in clips of the trained length.
# fmt: off
MORE: list[tuple] = [
    (
        "vivit_b16.k400_32x2",
        32, "interval", 2, 224, 224, "4x3", "prob", HALF, 224,
    ),
    (
        "vivit_b16.ek100_32x2",
        32, "interval", 1, 320, 320, "4x3", "prob", HALF, 320,
    ),
    (
        "csn_r152.ek100_32x2",
        32, "interval", 1, 256, 256, "10x3", "prob", HALF, 224,
    ),
    (
        "r2d3d_r18.mosi_hmdb51_16f r2plus1d_r10.mosi_hmdb51_16f r2d3d_r18.mosi_ucf101_16f "
        "r2plus1d_r10.mosi_ucf101_16f r2d3d_r18.mosi_hmdb51_hmdb51_16x4 r2plus1d_r10.mosi_hmdb51_hmdb51_16x4 "
        "r2d3d_r18.mosi_ucf101_ucf101_16x4 r2plus1d_r10.mosi_ucf101_ucf101_16x4",
        16, "interval", 4, 224, 112, "10x1", "prob", HALF, 112,
    ),
    (
        "tsm_r50.mma0_k400_8f_340x256 tsm_r50.mma0_k400_8f_256p tsm_r50.mma0_k400_8f_320p "
        "tsm_r50.mma0_k400_8f_320p_100e tsm_r50.mma0_k400_8f_256p_gpu tsm_r50.mma0_k400_8f_256p_video "
        "tsm_r50.mma0_nl_embedded_k400_8f tsm_r50.mma0_nl_gaussian_k400_8f tsm_r50.mma0_nl_dot_k400_8f "
        "tsm_r50.mma0_k400_hmdb51_8f tsm_r50.mma0_k400_ucf101_8f tsm_r50.mma0_diving48_8f",
        8, "twice", None, 256, 224, "1x1", "prob", IMAGENET, 224,
    ),
    (
        "tsm_r50.mma0_k400_dense_8f tsm_r50.mma0_k400_dense_8f_100e",
        8, "dense", 8, 256, 224, "10x10", "prob", IMAGENET, 224,
    ),
    (
        "tsm_r50.mma0_k400_16f_340x256 tsm_r50.mma0_k400_16f_256p tsm_r50.mma0_k400_16f_320p "
        "tsm_r50.mma0_k400_16f_320p_100e",
        16, "twice", None, 256, 224, "1x10", "prob", IMAGENET, 224,
    ),
    (
        "tsm_mobilenetv2.mma0_k400_dense_8f tsm_mobilenetv2.mma0_k400_dense_8f_port",
        8, "dense", 8, 256, 256, "10x3", "prob", IMAGENET, 224,
    ),
    (
        "tsm_mobilenetv2.mma_k400_8f tsm_mobilenetv2.mma_kd_k400_8f",
        8, "twice", None, 256, 256, "1x3", "prob", IMAGENET, 224,
    ),
    (
        "tsm_r50.mma0_ssv1_8f tsm_r50.mma0_ssv1_8f_flip tsm_r50.mma0_ssv1_8f_ra tsm_r50.mma0_ssv1_8f_flip_ra "
        "tsm_r50.mma0_ssv1_8f_ptv_ra tsm_r50.mma0_ssv1_8f_ptv_augmix tsm_r50.mma0_ssv1_8f_mixup "
        "tsm_r50.mma0_ssv1_8f_cutmix tsm_r101.mma0_ssv1_8f tsm_r50.mma0_ssv2_8f tsm_r101.mma0_ssv2_8f "
        "tsm_r50.mma0_jester_8f",
        8, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224,
    ),
    (
        "tsm_r50.mma0_ssv1_16f tsm_r50.mma0_ssv2_16f",
        16, "twice", None, 256, 256, "2x3", "prob", IMAGENET, 224,
    ),
    (
        "tsm_r50.mma0_k400_hmdb51_16f tsm_r50.mma0_k400_ucf101_16f tsm_r50.mma0_diving48_16f",
        16, "twice", None, 256, 224, "1x1", "prob", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_3f_340x256 c2d_r50.mma0_k400_3f_256p c2d_r50.mma0_k400_3f_320p "
        "c2d_r50.mma0_k400_3f_340x256_rrc c2d_r50.mma0_omni_k400_3f c2d_r50.mma0_ig1b_k400_3f "
        "c2d_r50.mma0_ig1b_omni_k400_3f c2d_resnext101.mma_k400_3f",
        3, "spread", None, 256, 224, "8x10", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_3f_256p_rrc c2d_r50.mma0_k400_3f_320p_rrc c2d_r50.mma0_k400_3f_320p_video "
        "c2d_resnext101.mma0_k400_3f c2d_r50.mma0_ucf101_3f",
        3, "spread", None, 256, 256, "8x3", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_8f_256p c2d_r50.mma0_k400_8f_320p c2d_r50.mma0_k600_8f c2d_r50.mma0_k700_8f "
        "c2d_r50.mma0_minik200_8f c2d_r50.mma0_minik200_googleimage_8f c2d_r50.mma0_minik200_webimage_8f "
        "c2d_r50.mma0_minik200_insvideo_8f c2d_r50.mma0_minik200_kineticsraw_8f c2d_r50.mma0_minik200_omni_8f "
        "c2d_r50.mma0_anet_video_8f c2d_r50.mma0_anet_clip_8f c2d_r18.mma0_hvu_action_8f c2d_r18.mma0_hvu_scene_8f "
        "c2d_r18.mma0_hvu_object_8f c2d_r18.mma0_hvu_event_8f c2d_r18.mma0_hvu_concept_8f "
        "c2d_r18.mma0_hvu_attribute_8f",
        8, "spread", None, 256, 256, "3x3", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_8f_256p_video",
        8, "spread", None, 256, 224, "3x10", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_dense_5f c2d_r50.mma0_k400_dense_8f",
        8, "dense", 8, 256, 224, "10x1", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_k400_dense_8f_video",
        8, "dense", 8, 256, 224, "10x10", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_ssv1_8f",
        8, "spread", None, 256, 224, "1x10", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_ssv1_16f c2d_r50.mma0_diving48_8f",
        8, "spread", None, 256, 224, "1x1", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_ssv2_8f",
        8, "spread", None, 256, 256, "1x3", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_ssv2_16f",
        16, "spread", None, 256, 256, "1x3", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_hmdb51_8f c2d_r50.mma0_k400_hmdb51_8f c2d_r50.mma0_mit_hmdb51_8f",
        8, "spread", None, 256, 256, "1x1", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_diving48_16f",
        16, "spread", None, 256, 224, "1x1", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r50.mma0_mit_6f",
        6, "spread", None, 256, 256, "1x3", "logit", IMAGENET, 224,
    ),
    (
        "c2d_r101.mma0_mmit_5f",
        5, "spread", None, 256, 256, "1x1", "logit", IMAGENET, 224,
    ),
]
# fmt: on
PUBLISHED += [(name, *figures) for names, *figures in MORE for name in names.split()]
# whose pixels, and whether the resize filters: TAdaConv's F.interpolate, PIL, OpenCV, F.interpolate
PIXELS = {
    "tadaconv": ("tadaconv", False),  # datasets/utils/transformations.py, KineticsResizedCrop
    "tam": ("tam", True),  # ops/transforms.py, GroupScale and GroupFullResSample
    "tadaconv_3d": ("tadaconv", False),
    "mmaction2": ("mmaction2", False),  # datasets/transforms/processing.py, Resize, ThreeCrop, TenCrop
    "mmaction2_mobilenet": ("mmaction2", False),
    "mmaction2_resnext": ("mmaction2", False),
    "pytorchvideo": ("pytorchvideo", False),  # transforms/functional.py, short_side_scale and uniform_crop
    None: ("plain", True),
}
NAMES = zoo.list_models()
TRAINED = [name for name in NAMES if not zoo.info(name).init]


@pytest.mark.parametrize("name", TRAINED)
def test_a_published_protocol(name: str) -> None:
    rows = [row for row in PUBLISHED if fnmatchcase(name, row[0])]
    assert len(rows) == 1, rows
    _, frames, sampling, interval, resize, crop, views, average, (mean, std), train_crop = rows[0]
    p = zoo.info(name).protocol
    assert (p.num_frames, p.sampling, p.interval) == (frames, sampling, interval)
    assert (p.resize, p.crop, f"{p.clips}x{p.crops}") == (resize, crop, views)
    assert (p.average, p.train_crop) == (average, train_crop)
    assert p.mean == pytest.approx(mean, abs=1e-9) and p.std == pytest.approx(std, abs=1e-9)
    assert (p.pixels, p.antialias) == PIXELS[zoo.info(name).converter]
    assert f"{crop} ({p.pixels} pixels), " in str(p) or p.pixels == "plain"


def test_every_row_is_of_an_entry() -> None:
    assert all(any(fnmatchcase(name, row[0]) for name in TRAINED) for row in PUBLISHED)


@pytest.mark.parametrize("name", [name for name in NAMES if zoo.info(name).init])
def test_a_start_is_trained_by_a_published_protocol(name: str) -> None:
    """Starts for fine-tuning take a trained entry's, but for classes that trade places and the mean of their images."""

    def core(p: Protocol) -> Protocol:
        return replace(p, mean=(), std=(), flip_pairs=())

    assert core(zoo.info(name).protocol) in [core(zoo.info(trained).protocol) for trained in TRAINED]


def test_files_from_before_there_were_pixels_still_load() -> None:
    values = {key: value for key, value in DEFAULT_PROTOCOL.to_dict().items() if key != "pixels"}
    assert Protocol.from_dict(values) == DEFAULT_PROTOCOL
    assert DEFAULT_PROTOCOL.pixels == "plain"
    with pytest.raises(ConfigError, match="here: pixels is 'float'; choose from plain, tadaconv, tam"):
        Protocol.from_dict(values | {"pixels": "float"}, "here")
    for sampling in ("interval", "dense", "duration", "offset"):
        with pytest.raises(ConfigError, match=f"here: interval is None with sampling '{sampling}'"):
            Protocol.from_dict(values | {"sampling": sampling, "interval": None}, "here")
    for sampling in ("segment", "uniform", "twice", "spread", "middle"):
        with pytest.raises(ConfigError, match=f"here: interval is 4 with sampling '{sampling}'"):
            Protocol.from_dict(values | {"sampling": sampling, "interval": 4}, "here")
