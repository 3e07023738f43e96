"""Ways of teaching. Each is a module around the model, and what several GPUs wrap."""

from __future__ import annotations

from torch import nn

from captioner.models.captioning import CaptioningModel
from captioner.training.losses import LossSum, cross_entropy
from captioner.types import Batch


class TeacherForcing(nn.Module):
    """Show the true caption so far, ask for its next word.

    Williams and Zipser 1989, "A learning algorithm for continually running fully recurrent neural networks".
    """

    def __init__(self, model: CaptioningModel, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> LossSum:
        """Cross-entropy of every real word, summed."""
        hidden = self.model(batch)
        targets = batch.targets[batch.target_mask]  # (M,)
        smoothing = self.label_smoothing if self.training else 0.0
        return cross_entropy(hidden, self.model.decoder.output, targets, label_smoothing=smoothing)
