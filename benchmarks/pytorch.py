"""PyTorch's side of the benchmark: deepspeech.pytorch, written again to be measured against.

Sources: `model.py` (`MaskConv`, `SequenceWise`, `BatchRNN`, `DeepSpeech`), `train.py`,
`data_loader.py` (`SpectrogramParser`, `_collate_fn`, `DSRandomSampler`) and `decoder.py`
(`GreedyDecoder`) of deepspeech.pytorch. What the original does for each file, frame or character is
kept, because that is what is measured. The names of the modules are the original's, so that
`tools.convert_torch.our_name` knows each tensor; the order of the classes is ours.

Axes: N batch, T frame, T' output frame, F bin, C channel or class, H hidden unit, U label.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.workers import TORCH, FrameworkSide, timed
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.config import Config, ModelConfig
from src.dataset import Batch
from src.manifest import Manifest, read_manifest
from tools.convert_torch import our_name

BATCH_NORM_MOMENTUM = 0.1  # PyTorch's default


class MaskConv(nn.Module):
    """Convolutions, batch norms and Hardtanh in a row; padding is zeroed after each."""

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
    """Sequence-wise batch norm, then a bidirectional LSTM over packed sequences, summed."""

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
    """(N, 1, F, T) spectrograms, longest first, (N,) frames -> (T', N, C) logits, (N,) lengths.

    Args:
        model: sizes; bidirectional, and conv 2 with stride 1 in time, as in the original.
    """

    def __init__(self, model: ModelConfig, num_bins: int, num_classes: int):
        super().__init__()
        self.output_lengths = model.output_lengths
        channels, hidden = model.conv_channels, model.hidden_size
        layers = []
        for i, (kernel, stride) in enumerate(
                zip(model.conv_kernels, model.conv_strides, strict=True)):
            padding = kernel[0] // 2, kernel[1] // 2
            layers += [nn.Conv2d(channels if i else 1, channels, kernel, stride, padding),
                       nn.BatchNorm2d(channels), nn.Hardtanh(0, 20, inplace=True)]
        self.conv = MaskConv(nn.Sequential(*layers))
        width = channels * model.conv_bins(num_bins)[1]
        self.rnns = nn.ModuleList(BatchRNN(hidden if i else width, hidden, i > 0)
                                  for i in range(model.hidden_layers))
        self.fc = nn.Sequential(SequenceWise(nn.Sequential(
            nn.BatchNorm1d(hidden), nn.Linear(hidden, num_classes, bias=False))))

    def forward(self, inputs, input_length):
        lengths = self.output_lengths(input_length)
        x = self.conv(inputs, lengths)
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()  # (N, C, F', T') -> (T', N, C*F')
        for rnn in self.rnns:
            x = rnn(x, lengths)
        return self.fc(x), lengths


class TorchBatch(NamedTuple):
    """The original's batch: `src.dataset.Batch` in tensors, longest first, all labels in a row."""

    inputs: torch.Tensor
    input_length: torch.Tensor
    targets: torch.Tensor
    target_length: torch.Tensor


def features(path: str, spect: SpectConfig) -> torch.Tensor:
    """A WAV file -> (F, T): 16-bit samples over 32767, magnitude of the STFT, log1p, normalised."""
    samples, _ = soundfile.read(path, dtype="int16")
    stft = librosa.stft(samples.astype("float32") / 32767, n_fft=spect.n_fft,
                        hop_length=spect.hop_length, win_length=spect.n_fft, window=spect.window)
    magnitude, _ = librosa.magphase(stft)
    result = torch.FloatTensor(np.log1p(magnitude))
    mean, deviation = result.mean(), result.std()
    result.add_(-mean)
    result.div_(deviation)
    return result


def load_batch(rows: list[int], manifest: Manifest, labels: Labels, spect: SpectConfig,
               ) -> TorchBatch:
    """Read utterances and pad their spectrograms with zeros, as the original's `_collate_fn`."""
    utterances = []
    for row in rows:
        with open(manifest.transcript_paths[row], encoding="utf8") as file:
            transcript = labels.encode(file.read().strip().upper())
        utterances.append((features(manifest.audio_paths[row], spect), transcript))
    utterances.sort(key=lambda utterance: utterance[0].size(1), reverse=True)
    frames = torch.IntTensor([spect.size(1) for spect, _ in utterances])
    inputs = torch.zeros(len(utterances), 1, utterances[0][0].size(0), int(frames[0]))
    for row, (spect, _) in zip(inputs, utterances, strict=True):
        row[0].narrow(1, 0, spect.size(1)).copy_(spect)
    targets = torch.IntTensor([index for _, transcript in utterances for index in transcript])
    counts = torch.IntTensor([len(transcript) for _, transcript in utterances])
    return TorchBatch(inputs, frames, targets, counts)


def random_batches(manifest: Manifest, labels: Labels, spect: SpectConfig, batch_size: int,
                   limit: int | None = None) -> Iterator[TorchBatch]:
    """An epoch in random order, whatever the lengths; one process loads ahead."""
    rows = range(len(manifest))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    batches = [order[i:i + batch_size] for i in rows[::batch_size]][:limit]
    load = partial(load_batch, manifest=manifest, labels=labels, spect=spect)
    return iter(DataLoader(rows, batch_sampler=batches, num_workers=1, collate_fn=load,
                           multiprocessing_context="fork"))


def greedy_decode(probs: torch.Tensor, sizes: torch.Tensor, labels: Labels):
    """(N, T, C), (N,) -> [[text]], [[frames of its characters]], by a loop over every frame."""
    characters = dict(enumerate(labels.characters))
    blank = characters[labels.blank_index]
    texts, offsets = [], []
    _, classes = torch.max(probs, 2)
    for sequence, size in zip(classes, sizes, strict=True):
        text, frames = "", []
        for i in range(size):
            char = characters[sequence[i].item()]
            if char == blank or (i and char == characters[sequence[i - 1].item()]):
                continue
            text += char
            frames.append(i)
        texts.append([text])
        offsets.append([torch.tensor(frames, dtype=torch.int)])
    return texts, offsets


class Side(FrameworkSide):
    """A network with its training step, stored networks, and a batch."""

    def multiply(self, size: int, library: str) -> float:
        """The best seconds of a float32 product of two (size, size) matrices."""
        matrix = np.random.default_rng(0).standard_normal((size, size), np.float32)
        factor = torch.from_numpy(matrix) if library == TORCH else matrix
        return min(timed(lambda: factor @ factor)[0])

    def build(self, config: Config) -> None:
        """The network with random weights, the loss and the optimizer."""
        torch.manual_seed(0)
        self.config, optim = config, config.OptimConfig
        self.network = TorchDeepSpeech(config.ModelConfig, self.spect.num_bins, len(self.labels))
        self.loss = nn.CTCLoss(self.labels.blank_index, reduction="sum", zero_infinity=True)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=optim.learning_rate, betas=optim.betas, eps=optim.eps,
            weight_decay=optim.weight_decay)

    def step(self, batch: TorchBatch, learning_rate: float) -> tuple[float, float]:
        """One training step: the loss, and the gradient norm before clipping."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        logits, lengths = self.network(batch.inputs, batch.input_length)
        log_probs = logits.log_softmax(-1)
        loss = self.loss(log_probs, batch.targets, lengths, batch.target_length)
        loss = loss / len(batch.inputs)
        self.optimizer.zero_grad()
        loss.backward()
        max_norm = self.config.TrainingConfig.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), max_norm)
        self.optimizer.step()
        return loss.item(), norm.item()

    def gradient_norms(self) -> dict[str, float]:
        """{our name: norm of the clipped gradient} of the last step."""
        return {our_name(name): p.grad.norm().item() for name, p in self.network.named_parameters()}

    @torch.no_grad()
    def save_weights(self, path: str) -> None:
        """Write the weights by our names (.npz), and beside them the file that `load_model` reads.

        The batch norms get the statistics of the batch, and the projection large weights. Otherwise
        all probabilities would lie near 1/C, and a wrong network could pass the comparison.
        """
        self.network.fc[0].module[1].weight.normal_(0, 2 / self.config.ModelConfig.hidden_size**0.5)
        kinds = nn.BatchNorm1d, nn.BatchNorm2d
        norms = [module for module in self.network.modules() if isinstance(module, kinds)]
        for norm in norms:
            norm.momentum = 1.0
        self.network(self.batch.inputs, self.batch.input_length)
        for norm in norms:
            norm.momentum = BATCH_NORM_MOMENTUM
        tensors = self.network.state_dict()
        torch.save((self.config.ModelConfig, tensors), Path(path).with_suffix(".pt"))
        np.savez(path, **{our_name(name): tensor.numpy() for name, tensor in tensors.items()
                          if not name.endswith("num_batches_tracked")})

    def set_batch(self, batch: Batch) -> None:
        """As for our side, but longest utterance first and without padding between the labels."""
        self.order = np.argsort(-batch.input_length, kind="stable")
        counts = batch.target_length[self.order]
        targets = [row[:n] for row, n in zip(batch.targets[self.order], counts, strict=True)]
        arrays = batch.inputs[self.order], batch.input_length[self.order]
        self.batch = TorchBatch(*map(torch.from_numpy, (*arrays, np.concatenate(targets), counts)))

    def load_model(self, path: str) -> None:
        """Load a network that `save_weights` wrote, for `predict`."""
        model, tensors = torch.load(path, weights_only=False)
        network = TorchDeepSpeech(model, self.spect.num_bins, len(self.labels))
        network.load_state_dict(tensors)
        self.models[path] = network.eval()

    @torch.inference_mode()
    def predict(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, T', C) probabilities and (N,) lengths in the order of the batch that was given."""
        logits, lengths = self.models[path](self.batch.inputs, self.batch.input_length)
        back = np.argsort(self.order)
        return logits.transpose(0, 1).softmax(-1).numpy()[back], lengths.numpy()[back]

    def save_checkpoint(self, path: str) -> None:
        """Write the network and the optimizer's state, which PyTorch makes at the first step."""
        optimizer = self.optimizer.state_dict()
        torch.save({"state_dict": self.network.state_dict(), "optimizer": optimizer}, path)

    def load_checkpoint(self, path: str) -> None:
        """Read what `save_checkpoint` wrote into the network and the optimizer's state."""
        content = torch.load(path)
        self.network.load_state_dict(content["state_dict"])
        self.optimizer.load_state_dict(content["optimizer"])

    def epoch_batches(self, limit: int | None) -> Iterator[TorchBatch]:
        """The batches of an epoch in random order."""
        data = self.config.DataConfig
        manifest = read_manifest(data.train_manifest, self.labels)
        return random_batches(manifest, self.labels, data.SpectConfig, data.batch_size, limit)

    def features(self, paths: list[str]) -> float:
        torch.set_num_threads(1)
        return super().features(paths)

    def feature(self, path: str) -> np.ndarray:
        """A recording -> (F, T) spectrogram."""
        return features(path, self.spect).numpy()

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> list[list[str]]:
        """(N, T, C), (N,) -> [[greedy text]]."""
        return greedy_decode(torch.from_numpy(probs), torch.from_numpy(sizes), self.labels)[0]
