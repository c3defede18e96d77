import numpy as np
import pytest
import torch

from btxrd.data.loader import EpochSampler, RadiographDataset, make_datasets, make_loader, to_input
from btxrd.params import DataParams


def batches(loader, epoch: int) -> list[torch.Tensor]:
    loader.sampler.epoch = epoch
    return [images for images, _ in loader]


def test_the_networks_input_is_normalised_in_three_equal_channels():
    images = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    values = to_input(images, {"mean": [0.5, 0.5, 0.25], "std": [0.5, 0.25, 0.25]})
    assert values.shape == (1, 3, 1, 2)
    assert values.dtype == torch.float32
    assert values[0, :, 0].tolist() == [[-1, 1], [-2, 2], [-1, 3]]


def test_dimming_adds_a_copy_of_each_annotated_image(cache, table):
    rows, labels = np.arange(len(table)), table["label"].to_numpy()
    plain = RadiographDataset(cache, rows, labels)
    guided = RadiographDataset(cache, rows, labels, annotations="roi_dim", dim_factor=0.5)
    assert len(guided) == len(plain) + (labels > 0).sum()
    assert (guided.labels[len(plain) :] > 0).all()
    loader = make_loader(guided, len(guided), seed=1, shuffle=False)
    images = torch.cat(batches(loader, 1)).numpy()
    np.testing.assert_array_equal(images[: len(plain)], cache.images)
    copy, original = images[-1], cache.images[guided.rows[-1]]
    mask = cache.masks[guided.rows[-1]] == 1
    np.testing.assert_array_equal(copy[mask], original[mask])
    np.testing.assert_array_equal(copy[~mask], np.rint(original[~mask] * 0.5))


def test_only_training_is_augmented_annotated_or_shuffled(cache, split):
    params = DataParams(image_size=64, annotations="roi_dim", shuffle_labels=True)
    datasets = make_datasets(cache, split, params, seed=1)
    for part in ("val", "test"):
        labels = split[split["split"] == part]["label"].to_numpy()
        np.testing.assert_array_equal(datasets[part].labels, labels)
        assert datasets[part].augmentation is None
        assert not datasets[part].dimmed.any()
    labels = split[split["split"] == "train"]["label"].to_numpy()
    served = datasets["train"].labels[: len(labels)]
    assert not np.array_equal(served, labels)
    assert sorted(served) == sorted(labels)


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


def test_every_sample_is_served_once_and_batches_are_even():
    sampler = EpochSampler(33, 16, seed=1, shuffle=True)
    requests = list(sampler)
    assert sorted(np.concatenate([request.samples for request in requests])) == list(range(33))
    assert [len(request.samples) for request in requests] == [11, 11, 11]
    assert len({request.seed for request in requests}) == 3
