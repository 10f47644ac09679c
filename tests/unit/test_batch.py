"""Batches on their way to a device."""

import torch

from mtdnn.batch import Batch


def test_a_batch_moves_to_a_device_without_its_mask():
    """The meta device stands for any other one: it has no values that could be asked for."""
    mask = torch.tensor([[True, True], [True, False]])
    inputs = {"input_ids": torch.zeros(2, 2, dtype=torch.long), "mask": mask}
    extras = {"sequences": torch.ones(2), "places": torch.ones(2)}
    batch = Batch("rte", inputs, torch.zeros(2), ["a", "b"], extras=extras).to("meta")
    assert batch.mask is mask and batch.num_tokens == 3
    assert {batch.inputs["input_ids"].device.type, batch.labels.device.type} == {"meta"}
    assert batch.extras["places"].device.type == "meta"
    assert batch.extras["sequences"].device.type == "cpu"  # lengths are computed from it


def test_the_second_text_is_reported_on_the_device_of_the_segments():
    mask = torch.tensor([[True, True], [True, False]])
    inputs = {"input_ids": torch.zeros(2, 2, dtype=torch.long), "mask": mask}
    batch = Batch("rte", inputs, None, ["a", "b"], extras={"segments": torch.tensor([[0, 1], [1, 1]])})
    assert batch.second_text.tolist() == [[False, True], [True, False]]
    assert batch.to("meta").second_text.device.type == "meta"
