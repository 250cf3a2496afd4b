import copy
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import resnest_backbones.mmseg  # noqa: F401  (registers)
from resnest_backbones.mmseg.config import use_test_time_augmentation
from resnest_backbones.mmseg.evaluation import PaperTTAModel

CLASSES = 4
# The stem and res2 of the smallest network, and two channels of class scores: what runs in milliseconds.
SEGMENTOR = {
    "type": "EncoderDecoder",
    "data_preprocessor": {"type": "ResNeStDataPreProcessor", "weights": "resnest50"},
    "backbone": {"type": "ResNeStBackbone", "name": "resnest14", "out_indices": (0,)},
    "decode_head": {"type": "PaperFCNHead", "in_channels": 256, "channels": 8, "in_index": 0, "num_classes": CLASSES,
                    "dropout_ratio": 0, "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True}},
    "test_cfg": {"mode": "whole"},
}  # fmt: skip


@pytest.fixture(scope="module")
def segmentor():
    """In float32, as the preprocessor's images are; its logits are of the order of one."""
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(copy.deepcopy(SEGMENTOR))).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        logits = predict(model, picture(32, 32))[0].seg_logits.data
        model.decode_head.conv_seg.weight /= logits.std()
        model.decode_head.conv_seg.bias -= logits.mean((1, 2)) / logits.std()  # so that several classes win
    return model


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth BGR image (3, H, W) in uint8, as the pipeline packs it."""
    coarse = torch.rand(1, 3, height // 6 + 2, width // 6 + 2, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (height, width), mode="bilinear")[0] * 255).to(torch.uint8)


def predict(model, *images: Tensor, samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
    sizes = [tuple(image.shape[1:]) for image in images]
    samples = samples or [SegDataSample(metainfo={"ori_shape": size, "img_shape": size}) for size in sizes]
    return model.test_step({"inputs": list(images), "data_samples": samples})


def scores(model, image: Tensor) -> Tensor:
    return predict(model, image)[0].seg_logits.data


def whole_logits(segmentor, image: Tensor) -> Tensor:
    """MMSegmentation's own inference, in float64 from there on."""
    with torch.no_grad():
        return predict(segmentor, image)[0].seg_logits.data.double()


def small(segmentor, size: int = 32, stride: int = 32, scales: tuple = (1.0,), **more) -> PaperTTAModel:
    """Windows of 32 pixels, not mirrored unless told."""
    more = {"flip": False, "crop_size": 32, **more}
    return PaperTTAModel(segmentor, base_size=size, scales=scales, stride=stride, **more)


def assert_same(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-6)


def test_one_window_at_the_images_own_size_is_the_exponential_of_whole_inference(segmentor):
    image = picture(32, 32)
    sample, logits = predict(small(segmentor), image)[0], whole_logits(segmentor, image)
    assert_same(sample.seg_logits.data, logits.exp())
    assert sample.pred_sem_seg.data.shape == (1, 32, 32)
    assert torch.equal(sample.pred_sem_seg.data, logits.argmax(0, keepdim=True))
    assert len(sample.pred_sem_seg.data.unique()) > 1
    # Windows that fit are those of MMSegmentation's sliding inference.
    image, slide = picture(64, 96), copy.deepcopy(segmentor)
    slide.test_cfg.update(mode="slide", crop_size=(32, 32), stride=(32, 32))
    assert_same(scores(small(segmentor, 96), image), whole_logits(slide, image).exp())


def test_flip_adds_the_logits_of_the_mirrored_window_before_the_exponential(segmentor):
    image = picture(32, 32)
    mirrored_back = whole_logits(segmentor, image.flip(-1)).flip(-1)
    assert_same(scores(small(segmentor, flip=True), image), (whole_logits(segmentor, image) + mirrored_back).exp())


def test_the_last_window_ends_in_black_and_does_not_move_back(segmentor):
    image = picture(32, 40)
    black = torch.zeros(3, 32, 16, dtype=torch.uint8)
    left = whole_logits(segmentor, image[..., :32]).exp()
    right = whole_logits(segmentor, torch.cat([image[..., 24:], black], -1)).exp()
    want = torch.cat([left[..., :24], (left[..., 24:] + right[..., :8]) / 2, right[..., 8:16]], dim=-1)
    assert_same(scores(small(segmentor, 40, 24), image), want)


@pytest.mark.parametrize("size", [(20, 27), (40, 12)])
def test_what_is_smaller_than_a_window_is_padded_with_black_pixels_right_and_below(segmentor, size):
    (height, width), image, crop = size, picture(*size), max(32, *size)
    model = small(segmentor, max(size), crop, crop_size=crop)
    padded = F.pad(image, (0, crop - width, 0, crop - height))
    assert_same(scores(model, image), whole_logits(segmentor, padded).exp()[:, :height, :width])


@pytest.mark.parametrize(
    ("size", "scale", "want"),
    [
        ((300, 500), 1.75, (546, 910)),
        ((500, 300), 1.25, (650, 390)),
        ((512, 683), 1.0, (390, 520)),  # 389.8
        ((100, 300), 0.501, (87, 261)),  # 260.52 up
        ((2, 3000), 0.5, (1, 260)),  # 0.17 would be no image
    ],
)
def test_the_long_side_is_rounded_up_and_the_short_one_to_the_nearest(segmentor, size, scale, want):
    model = PaperTTAModel(segmentor)
    assert model._scaled(torch.zeros(3, *size), scale).shape == (3, *want)


def test_windows_of_the_paper_begin_every_320_pixels(segmentor):
    wanted = {260: [0], 480: [0], 481: [0, 320], 800: [0, 320], 801: [0, 320, 640]}
    model = PaperTTAModel(segmentor)
    assert {length: model._offsets(length) for length in wanted} == wanted


def test_images_are_resized_with_aligned_corners_after_normalisation(segmentor):
    """The network sees the resized tensor; it is undone here by asking it for that very tensor."""
    image, seen = picture(24, 36), []
    model = small(segmentor)
    hook = segmentor.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores(model, image)
    hook.remove()
    normalized = segmentor.data_preprocessor({"inputs": [image], "data_samples": [SegDataSample()]})["inputs"]
    want = F.interpolate(normalized, (21, 32), mode="bilinear", align_corners=True)
    assert len(seen) == 1 and seen[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(seen[0][:, :, :21], want)
    black = -segmentor.data_preprocessor.mean / segmentor.data_preprocessor.std
    torch.testing.assert_close(seen[0][0, :, 21:], black.expand(-1, 11, 32))


def test_scales_are_resized_to_the_image_and_added_up(segmentor):
    image = picture(32, 32)
    single = [scores(small(segmentor, 32, 16, (scale,), flip=True), image) for scale in (0.5, 1.0, 1.75)]
    assert_same(scores(small(segmentor, 32, 16, (0.5, 1.0, 1.75), flip=True), image), sum(single))
    assert_same(single[0], scores(small(segmentor, 16, 16, flip=True), image))  # 0.5 of 32 is 16


def test_logits_beyond_the_range_of_float32s_exponential_stay_ordered(segmentor):
    model = copy.deepcopy(segmentor)
    with torch.no_grad():
        model.decode_head.conv_seg.weight.zero_()
        model.decode_head.conv_seg.bias.copy_(torch.tensor([60.0, 61.0, 59.0, -200.0]))
    sample = predict(small(model, flip=True), picture(32, 32))[0]
    assert sample.seg_logits.data.isfinite().all()
    assert (sample.pred_sem_seg.data == 1).all()


def test_samples_keep_their_labels_and_facts_and_images_may_differ_in_size(segmentor):
    images = [picture(20, 30), picture(33, 18, seed=1)]
    samples = []
    for i, image in enumerate(images):
        size = tuple(image.shape[1:])
        sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size, "img_path": f"{i}.jpg"})
        sample.gt_sem_seg = PixelData(data=torch.full((1, *size), i))
        samples.append(sample)
    model = small(segmentor, 32, 16, (0.5, 1.0), flip=True)
    got = predict(model, *images, samples=copy.deepcopy(samples))
    assert len(got) == 2
    for image, before, after in zip(images, samples, got, strict=True):
        assert before.metainfo == after.metainfo
        assert torch.equal(before.gt_sem_seg.data, after.gt_sem_seg.data)
        assert after.seg_logits.data.shape == (CLASSES, *image.shape[1:])
        assert not after.seg_logits.data.requires_grad
        assert torch.equal(after.seg_logits.data, scores(model, image))  # alone as in the batch
    assert len(model.test_step({"inputs": images})) == 2  # no samples: images to look at only


def test_images_resized_by_the_pipeline_or_padded_by_the_preprocessor_are_scored_at_their_own_size(segmentor):
    model, image = small(segmentor, 32, 16), picture(20, 30)
    sample = SegDataSample(metainfo={"ori_shape": (40, 60), "img_shape": (20, 30)})
    assert predict(model, image, samples=[sample])[0].pred_sem_seg.data.shape == (1, 40, 60)
    padding = copy.deepcopy(segmentor)
    padding.data_preprocessor.test_cfg = {"size_divisor": 32}
    assert_same(scores(small(padding, 32, 16), image), scores(model, image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_size": 0}, "base_size must be a positive integer, got 0"),
        ({"crop_size": (480, 480)}, "crop_size must be a positive integer, got (480, 480)"),
        ({"stride": 481}, "stride must be 480 (crop_size) at most, so that windows leave no gaps, got 481"),
        ({"scales": 1.0}, "scales must be a sequence of positive numbers, got 1.0"),
        ({"scales": ()}, "scales must be a sequence of positive numbers, got ()"),
        ({"scales": (1.0, float("nan"))}, "scales must be a sequence of positive numbers, got (1.0, nan)"),
    ],
)
def test_wrong_arguments_are_named(segmentor, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PaperTTAModel(segmentor, **arguments)


def test_what_it_cannot_test_is_refused(segmentor):
    with pytest.raises(ValueError, match="module must be an MMSegmentation segmentor, got a SegTTAModel"):
        PaperTTAModel(MODELS.build({"type": "SegTTAModel", "module": segmentor}))
    binary = copy.deepcopy(SEGMENTOR)
    binary["decode_head"].update(num_classes=2, out_channels=1, threshold=0.5)
    with pytest.raises(ValueError, match="module must have two or more output channels, got 1"):
        PaperTTAModel(binary)
    with pytest.raises(ValueError, match="without TestTimeAug, got a list"):
        PaperTTAModel(segmentor).test_step({"inputs": [[picture(8, 8)]], "data_samples": [[SegDataSample()]]})


def test_mmsegmentations_test_command_runs_it_and_measures_it(tmp_path, segmentor):
    rng, areas = np.random.default_rng(0), np.zeros((3, CLASSES))
    images, labels = tmp_path / "images" / "validation", tmp_path / "annotations" / "validation"
    images.mkdir(parents=True), labels.mkdir(parents=True)
    tta = {"type": "PaperTTAModel", "base_size": 32, "scales": [0.5, 1.0], "crop_size": 32, "stride": 16}
    model = PaperTTAModel(segmentor, **{key: value for key, value in tta.items() if key != "type"})
    for i, size in enumerate([(20, 30), (33, 18), (40, 40)]):
        image = picture(*size, seed=i)
        Image.fromarray(image.numpy().transpose(1, 2, 0)[..., ::-1]).save(images / f"{i}.png")
        label = rng.integers(0, CLASSES + 1, size, dtype=np.uint8)
        Image.fromarray(label).save(labels / f"{i}.png")
        guess = predict(model, image)[0].pred_sem_seg.data[0].numpy()[label > 0]
        truth = label[label > 0] - 1
        areas += [np.bincount(part, minlength=CLASSES) for part in (truth[guess == truth], guess, truth)]
    torch.save({"state_dict": segmentor.state_dict()}, tmp_path / "weights.pth")

    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadCheckedAnnotations", "num_classes": CLASSES},
                {"type": "PackSegInputs"}]  # fmt: skip
    dataset = {"type": "BaseSegDataset", "data_root": str(tmp_path), "img_suffix": ".png", "reduce_zero_label": True,
               "data_prefix": {"img_path": "images/validation", "seg_map_path": "annotations/validation"},
               "metainfo": {"classes": tuple("abcd")}, "test_mode": True, "pipeline": []}  # fmt: skip
    cfg = Config({
        "default_scope": "mmseg", "experiment_name": "paper_tta", "work_dir": str(tmp_path / "work"),
        "model": SEGMENTOR, "tta_model": tta, "tta_pipeline": pipeline, "load_from": str(tmp_path / "weights.pth"),
        "test_dataloader": {"batch_size": 2, "num_workers": 0, "dataset": dataset,
                            "sampler": {"type": "DefaultSampler", "shuffle": False}},
        "test_cfg": {"type": "TestLoop"}, "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
    })  # fmt: skip
    use_test_time_augmentation(cfg)
    metrics = Runner.from_cfg(cfg).test()
    hit, guessed, true = areas
    assert metrics["mIoU"] == pytest.approx(100 * (hit / (guessed + true - hit)).mean(), abs=0.01)
    assert metrics["aAcc"] == pytest.approx(100 * hit.sum() / true.sum(), abs=0.01)


def test_the_published_evaluation_is_the_default(segmentor, published):
    want, recipe = published["ade20k_val"]["recipe"]["evaluation"], published["ade20k_val"]["recipe"]
    model = MODELS.build({"type": "PaperTTAModel", "module": segmentor})
    assert list(model.scales) == want["scales"]
    assert (model.flip, model.crop_size, model.stride) == (want["flip"], want["sliding_window"], want["window_stride"])
    assert model.base_size == recipe["base_size"]
