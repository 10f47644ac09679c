"""One pass of the encoder whose hidden states several tasks on the same rows read, each with its own head and loss.

Dimensions: B rows, M sequences (M = B unless a row holds several), T tokens, H hidden.
"""

from __future__ import annotations

from torch import Tensor

from mtdnn.batch import Batch, SharedInputs
from mtdnn.model import MultiTaskModel
from mtdnn.seeding import default_generator_states, restore_default_generators, seed_default_generators


class SharedPass:
    """Hidden states of the sequences of a step's part, computed when they are first read.

    Losses go backward as far as the hidden states, where their gradients add up; `flush` sends the sum on through the
    encoder. So each task can go backward on its own, and all of them cost one backward pass, or one each where their
    gradients are needed apart.

    Args:
        model: encoder and heads.
        inputs: the sequences.
        dropout_stream: the seed names of the pass; masks of encoder and heads are those that a task alone would have.
    """

    def __init__(self, model: MultiTaskModel, inputs: SharedInputs, dropout_stream: tuple[int | str, ...]) -> None:
        self.model, self.inputs, self._stream = model, inputs, dropout_stream
        self._output: Tensor | None = None
        self._read: Tensor | None = None

    def hidden(self, batch: Batch) -> Tensor:
        """[N, T, H]: hidden states of the sequences that a task's batch has; leaves PyTorch's default generators as the
        encoder has left them, for the dropout of the head.

        Args:
            batch: of one of the tasks, on the model's device.
        """
        if self._read is None:
            seed_default_generators(int(self._stream[0]), *self._stream[1:])
            every = Batch(batch.task, self.inputs.inputs, None, batch.row_ids).to(batch.inputs["input_ids"].device)
            self._output = self.model.hidden(every)
            self._read = self._output.detach().requires_grad_(self._output.requires_grad)
            self._states = default_generator_states()
        restore_default_generators(self._states)
        return self.inputs.of_batch(self._read, batch)

    def flush(self, *, last: bool) -> None:
        """Send the gradients that have gathered at the hidden states through the encoder.

        Args:
            last: no further task will; the pass is freed.
        """
        if self._output is not None and self._read is not None and self._read.grad is not None:
            gradient, self._read.grad = self._read.grad, None
            self._output.backward(gradient, retain_graph=not last)
        if last:
            self._output = self._read = None
