"""A damaged folder of an exported graph is an error with its place."""

import pytest

from mtdnn.errors import DataError
from mtdnn.publishing.onnx_run import _stored_head
from mtdnn.runs.folder import RunFolder


@pytest.mark.parametrize("buffers", [{"thresholds": ["warm"]}, {"thresholds": [[1], [2, 3]]}, {"a.b": 1}, {"x": [{}]}])
def test_thresholds_that_no_head_has_are_reported(buffers):
    with pytest.raises(DataError, match=r"graph/export\.json: buffers\.nli: damaged: .*\. Export the run again\."):
        _stored_head(RunFolder("graph"), "nli", buffers)
    assert _stored_head(RunFolder("graph"), "nli", {"thresholds": [0.5, 1]}).thresholds.tolist() == [0.5, 1]
