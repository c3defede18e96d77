import numpy as np
import pytest
import torch

from btxrd.data import ImageCache
from btxrd.data.augmentation import training_augmentation
from btxrd.data.loader import (
    BatchRequest,
    EpochSampler,
    borrow_masks,
    make_datasets,
    make_loader,
    worker_count,
)
from btxrd.data.table import REGION_COLUMNS, one_hot_name
from btxrd.params import DataParams

BALANCED = DataParams(image_size=64, annotations="balanced_dim")


@pytest.fixture(scope="module")
def regions(table):
    return one_hot_name(table, REGION_COLUMNS).set_axis(table["image_id"])


def batches(loader, epoch: int) -> list[torch.Tensor]:
    loader.sampler.epoch = epoch
    return [images for images, *_ in loader]


def test_dimming_adds_a_copy_of_each_annotated_image(cache, split):
    train = split[split["part"] == "train"]
    plain, labels = cache.images[cache.rows(train["image_id"])], train["label"].to_numpy()
    params = DataParams(image_size=64, annotations="roi_dim", dim_factor=0.5)
    guided = make_datasets(cache, split, params, seed=1)["train"]
    assert len(guided) == len(plain) + (labels > 0).sum()
    assert (guided.labels[len(plain) :] > 0).all()
    guided.augmentation = None
    loader = make_loader(guided, len(guided), seed=1, shuffle=False)
    images = torch.cat(batches(loader, 1)).numpy()
    np.testing.assert_array_equal(images[: len(plain)], plain)
    copy, original = images[-1], cache.images[guided.rows[-1]]
    mask = cache.masks[guided.rows[-1]] == 1
    np.testing.assert_array_equal(copy[mask], original[mask])
    np.testing.assert_array_equal(copy[~mask], np.rint(original[~mask] * 0.5))


@pytest.mark.parametrize("annotations", ["roi_dim", "balanced_dim"])
def test_only_training_is_augmented_annotated_or_shuffled(cache, split, regions, annotations):
    params = DataParams(image_size=64, annotations=annotations, shuffle_labels=True)
    datasets = make_datasets(cache, split, params, seed=1, regions=regions)
    for part in ("val", "test"):
        labels = split[split["part"] == part]["label"].to_numpy()
        np.testing.assert_array_equal(datasets[part].labels, labels)
        assert datasets[part].augmentation is None
        assert (datasets[part].bright == -1).all()
    labels = split[split["part"] == "train"]["label"].to_numpy()
    served = datasets["train"].labels[: len(labels)]
    assert not np.array_equal(served, labels)
    assert sorted(served) == sorted(labels)


def test_balanced_dimming_tells_nothing_about_the_class(cache, split, regions):
    """A normal image is dimmed around a training tumour of its region."""
    train = make_datasets(cache, split, BALANCED, seed=1, regions=regions)["train"]
    half = len(train) // 2
    assert (train.bright >= 0).tolist() == [False] * half + [True] * half
    np.testing.assert_array_equal(train.labels[:half], train.labels[half:])
    np.testing.assert_array_equal(train.rows[:half], train.rows[half:])
    dimmed = np.arange(half, len(train))
    own = train.labels[dimmed] > 0
    np.testing.assert_array_equal(train.bright[dimmed][own], train.rows[dimmed][own])
    borrowed, rows = train.bright[dimmed][~own], train.rows[dimmed][~own]
    tumours = train.rows[train.labels > 0]
    assert set(borrowed) <= set(tumours)
    assert len(set(borrowed)) > 5
    region = regions[cache.index["image_id"]].to_numpy()
    for lender, row in zip(borrowed, rows, strict=True):
        assert region[lender] == region[row] or region[row] not in set(region[tumours])
    train.augmentation = None
    image = next(iter(make_loader(train, len(train), seed=1, shuffle=False)))[0][dimmed[~own]][0]
    bright, original = cache.masks[borrowed[0]] == 1, cache.images[rows[0]]
    np.testing.assert_array_equal(image[bright], original[bright])
    np.testing.assert_array_equal(image[~bright], np.rint(original[~bright] * 0.5))


def test_borrowed_masks_follow_the_seed_alone(cache, split, regions):
    def bright(seed, **changes):
        params = BALANCED.model_copy(update=changes)
        return make_datasets(cache, split, params, seed, regions)["train"].bright.tolist()

    assert bright(1) == bright(1) == bright(1, shuffle_labels=True)
    assert bright(1) != bright(2)


def test_a_region_without_tumours_borrows_from_all():
    annotated = np.array([True, True, *[False] * 40])
    lenders = borrow_masks(annotated, np.array(["arm", "leg", *["hip"] * 40]), seed=0)
    assert set(lenders[2:]) == {0, 1}


def test_balanced_dimming_says_what_it_lacks(cache, split, regions):
    with pytest.raises(ValueError, match="balanced_dim needs the images' regions"):
        make_datasets(cache, split, BALANCED, seed=1)
    normals = split[split["label"] == 0]
    with pytest.raises(ValueError, match="needs annotated images in train"):
        make_datasets(cache, normals, BALANCED, seed=1, regions=regions)


def test_masks_are_augmented_as_the_images_are(cache, split):
    """Served with its mask as the image, a mask must come out where the image does."""
    lesions = ImageCache(cache.masks * np.uint8(255), cache.masks, cache.index, cache.key)
    params = DataParams(image_size=64, annotations="roi_dim", dim_factor=0)
    train = make_datasets(lesions, split, params, seed=1, masks=True)["train"]
    images, labels, masks = train[BatchRequest(np.arange(len(train)), seed=3)]
    assert masks.dtype == torch.uint8
    assert set(masks.unique().tolist()) == {0, 1}
    assert not masks[labels == 0].any()
    lesion = masks == 1
    assert (masks != torch.from_numpy(cache.masks[train.rows])).any(dim=(1, 2)).float().mean() > 0.2
    assert images[lesion].float().mean() > 200  # but for interpolated edges and dropped-out holes
    assert images[~lesion].float().mean() < 20


def test_masks_are_served_in_training_only_and_change_no_image_without_augmentation(cache, split):
    datasets = make_datasets(cache, split, DataParams(image_size=64), seed=1, masks=True)
    assert len(datasets["val"][BatchRequest(np.arange(2), 0)]) == 2
    train = datasets["train"]
    train.augmentation = None
    images, _, masks = train[BatchRequest(np.arange(8), 0)]
    np.testing.assert_array_equal(images, cache.images[train.rows[:8]])
    np.testing.assert_array_equal(masks, cache.masks[train.rows[:8]])


@pytest.mark.parametrize(
    ("device", "threads", "expected"),
    [("cpu", 4, 0), ("mps", 4, 0), ("cuda", 4, 3), ("cuda", 1, 1), ("cuda", 64, 8)],
)
def test_a_gpu_is_fed_by_the_other_cores_of_its_run(monkeypatch, device, threads, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert worker_count("auto", torch.device(device)) == expected
    assert worker_count(5, torch.device(device)) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_seed_and_epoch_alone(cache, split, workers):
    def loader(seed: int, workers: int = 0):
        dataset = make_datasets(cache, split, DataParams(image_size=64), seed)["train"]
        return make_loader(dataset, 16, seed, shuffle=True, workers=workers)

    first = batches(loader(1), 3)
    again = batches(loader(1, workers), 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], batches(loader(1), 4)[0])
    assert not torch.equal(first[0], batches(loader(2), 3)[0])


def augmented(cache, *options) -> np.ndarray:
    augmentation = training_augmentation(0, *options)
    augmentation.set_random_seed(7)
    return np.stack([augmentation(image=image)["image"] for image in cache.images[:60]])


def test_a_stronger_augmentation_changes_more(cache):
    changes = [
        np.abs(augmented(cache, strength).astype(int) - cache.images[:60]).mean()
        for strength in ("none", "light", "standard", "strong")
    ]
    assert changes[0] == 0
    assert changes == sorted(set(changes))


def test_the_source_is_jittered_by_sharpness_borders_and_inversion(cache):
    before, after = cache.images[:60].astype(int), augmented(cache, "none", True).astype(int)
    pairs = zip(before, after, strict=True)
    inverted = [np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0 for a, b in pairs]
    assert 0.05 < np.mean(inverted) < 0.4
    detail = [np.abs(np.diff(images)).mean(axis=(1, 2)) for images in (before, after)]
    assert ((detail[1] < 0.95 * detail[0]) & ~np.array(inverted)).any()
    assert (detail[1] > 1.05 * detail[0]).any()
    assert (before == after).all(axis=(1, 2)).mean() > 0.1


@pytest.mark.parametrize("key", ["augmentation", "source_jitter"])
def test_the_parameters_choose_the_augmentation_of_train_alone(cache, split, key):
    def served(part, **values):
        datasets = make_datasets(cache, split, DataParams(image_size=64, **values), seed=1)
        return datasets[part][BatchRequest(np.arange(16), seed=3)][0]

    other = {"augmentation": "none", "source_jitter": True}[key]
    assert not torch.equal(served("train"), served("train", **{key: other}))
    assert torch.equal(served("val"), served("val", **{key: other}))


def test_shuffled_epochs_are_drawn_as_ever():
    sampler = EpochSampler(33, 16, seed=1, shuffle=True)
    sampler.epoch = 4
    random = np.random.default_rng([1, 4])
    order = random.permutation(33)
    requests = list(sampler)
    for request, samples in zip(requests, np.array_split(order, 3), strict=True):
        np.testing.assert_array_equal(request.samples, samples)
        assert request.seed == random.integers(2**31)
    # Every sample once, in batches as even as can be, each with a seed of its own.
    assert [len(request.samples) for request in requests] == [11, 11, 11]
    assert len({request.seed for request in requests}) == 3


@pytest.mark.parametrize("counts", [(20, 10, 3), (5, 5, 5), (30, 1, 1)])
def test_a_balanced_epoch_has_as_many_samples_of_each_class(counts):
    classes = np.repeat([0, 1, 2], counts)

    def epoch(number: int, seed: int = 1) -> np.ndarray:
        sampler = EpochSampler(len(classes), 8, seed, shuffle=True, balance=classes)
        sampler.epoch = number
        return np.concatenate([request.samples for request in sampler])

    first = epoch(1)
    assert len(first) == len(classes)
    assert np.ptp(np.bincount(classes[first])) <= 1
    for members in (np.flatnonzero(classes == each) for each in range(3)):
        times = np.bincount(first, minlength=len(classes))[members]
        assert np.ptp(times) <= 1  # all alike: none is drawn again before the others
    np.testing.assert_array_equal(first, epoch(1))
    assert epoch(2).tolist() != first.tolist() != epoch(1, seed=2).tolist()


def test_balance_is_of_what_is_served(cache, split):
    params = DataParams(image_size=64, annotations="roi_dim")
    train = make_datasets(cache, split, params, seed=1)["train"]
    loader = make_loader(train, 16, seed=1, shuffle=True, balanced=True)
    served = torch.cat([labels for _, labels in loader])
    assert len(served) == len(train)
    assert np.ptp(np.bincount(served)) <= 1
