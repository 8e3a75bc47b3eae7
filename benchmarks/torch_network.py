"""DeepSpeech2 in PyTorch as deepspeech.pytorch builds it, written again: what ours is measured against.

The modules' names are the original's, so that `src.convert_torch.our_name` finds our name of every tensor. The order of
the classes is ours. Axes: N batch, T frame, T' output frame, F bin, C channel or class, H hidden unit, U label.
Source: deepspeech.pytorch, `model.py` (`MaskConv`, `SequenceWise`, `BatchRNN`, `DeepSpeech`) and `train.py`.
"""

import torch
from torch import nn

from src.config import ModelConfig, OptimConfig
from tools.convert_torch import our_name

CONV1 = {"kernel_size": (41, 11), "stride": (2, 2), "padding": (20, 5)}


class MaskConv(nn.Module):
    """Convolutions, batch norms and Hardtanh in a row, with padding zeroed after each."""

    def __init__(self, seq_module: nn.Sequential):
        super().__init__()
        self.seq_module = seq_module

    def forward(self, x, lengths):
        """(N, 1, F, T), (N,) output lengths -> (N, C, F', T')."""
        for module in self.seq_module:
            x = module(x)
            x = x.masked_fill(torch.arange(x.shape[3]) >= lengths[:, None, None, None], 0)
        return x


class SequenceWise(nn.Module):
    """Applies a module for (rows, H) to (T', N, H), padding included."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x):
        t, n, _ = x.shape
        return self.module(x.flatten(0, 1)).unflatten(0, (t, n))


class BatchRNN(nn.Module):
    """Sequence-wise batch norm, then a bidirectional LSTM over packed sequences, its directions summed."""

    def __init__(self, input_size: int, hidden_size: int, batch_norm: bool):
        super().__init__()
        self.batch_norm = SequenceWise(nn.BatchNorm1d(input_size)) if batch_norm else None
        self.rnn = nn.LSTM(input_size, hidden_size, bidirectional=True)

    def forward(self, x, lengths):
        """(T', N, H), (N,) lengths, longest first -> (T', N, H)."""
        if self.batch_norm is not None:
            x = self.batch_norm(x)
        x, _ = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths))
        x, _ = nn.utils.rnn.pad_packed_sequence(x)
        return x.unflatten(2, (2, -1)).sum(2)


class TorchDeepSpeech(nn.Module):
    """The network: (N, 1, F, T) spectrograms, longest first, and (N,) frame counts -> (T', N, C) logits, (N,) lengths.

    Without gradients and in evaluation mode `predict` gives probabilities.
    """

    def __init__(self, model: ModelConfig, num_bins: int, num_classes: int):
        super().__init__()
        channels, hidden = model.conv_channels, model.hidden_size
        kernel = tuple(model.conv2_kernel)
        self.conv = MaskConv(nn.Sequential(
            nn.Conv2d(1, channels, **CONV1), nn.BatchNorm2d(channels), nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(channels, channels, kernel, (2, 1), (kernel[0] // 2, kernel[1] // 2)),
            nn.BatchNorm2d(channels), nn.Hardtanh(0, 20, inplace=True)))
        bins = (num_bins + 1) // 2      # both strides are 2 in frequency
        bins = (bins + 1) // 2
        self.rnns = nn.ModuleList(BatchRNN(hidden if i else channels * bins, hidden, i > 0)
                                  for i in range(model.hidden_layers))
        self.fc = nn.Sequential(SequenceWise(nn.Sequential(
            nn.BatchNorm1d(hidden), nn.Linear(hidden, num_classes, bias=False))))

    def forward(self, inputs, input_length):
        lengths = (input_length - 1) // 2 + 1
        x = self.conv(inputs, lengths)
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()      # (N, C, F', T') -> (N, C*F', T') -> (T', N, C*F')
        for rnn in self.rnns:
            x = rnn(x, lengths)
        return self.fc(x), lengths

    @torch.inference_mode()
    def predict(self, inputs, input_length):
        """(N, 1, F, T), (N,) -> (N, T', C) probabilities, (N,) lengths."""
        self.eval()
        logits, lengths = self(inputs, input_length)
        return logits.transpose(0, 1).softmax(-1), lengths

    @torch.no_grad()
    def measure_statistics(self, inputs, input_length) -> None:
        """Make the batch norms' running statistics those of a batch."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        self.train()
        self(inputs, input_length)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def as_ours(self) -> dict:
        """{our name: array} of all parameters and statistics."""
        return {our_name(name): tensor.numpy() for name, tensor in self.state_dict().items()
                if not name.endswith("num_batches_tracked")}


class TorchTrainStep:
    """One step as the original's: CTC loss summed over the batch and divided by N, gradient clipping, AdamW."""

    def __init__(self, network: TorchDeepSpeech, optim: OptimConfig, max_grad_norm: float, blank_index: int):
        self.network, self.max_grad_norm = network, max_grad_norm
        self.criterion = nn.CTCLoss(blank=blank_index, reduction="sum", zero_infinity=True)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=optim.learning_rate, betas=optim.betas,
                                           eps=optim.eps, weight_decay=optim.weight_decay)

    def __call__(self, inputs, input_length, targets, target_length, learning_rate: float) -> tuple[float, float]:
        """(N, 1, F, T) longest first, (N,), labels one after the other, (N,) -> loss, gradient norm before clipping."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        logits, lengths = self.network(inputs, input_length)
        log_probs = logits.log_softmax(-1)
        loss = self.criterion(log_probs, targets, lengths, target_length) / len(inputs)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.item(), norm.item()

    def gradient_norms(self) -> dict[str, float]:
        """{our name: norm of the (clipped) gradient of the last step}."""
        return {our_name(name): p.grad.norm().item() for name, p in self.network.named_parameters()}
