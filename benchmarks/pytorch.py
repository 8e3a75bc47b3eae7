"""PyTorch's side of the benchmark: deepspeech.pytorch, written again to be measured against.

Sources: `model.py` (`MaskConv`, `SequenceWise`, `BatchRNN`, `DeepSpeech`), `train.py`,
`data_loader.py` (`SpectrogramParser`, `_collate_fn`, `DSRandomSampler`) and `decoder.py`
(`GreedyDecoder`) of deepspeech.pytorch. What the original does for each file, frame or character is
kept, because that is what is measured. Tensors have the original's names, which
`tools.convert_torch.our_name` knows.

Axes: N batch, T frame, T' output frame, F bin, C channel or class, H hidden unit, U label.
"""

import os
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.workers import TORCH, FrameworkSide, timed
from src.config import Config, ModelConfig, strided_size
from src.dataset import Batch
from src.manifest import Manifest, read_manifest
from tools.convert_torch import our_name


class Network(nn.Module):
    """(N, 1, 161, T) spectrograms, (N,) frames, longest first -> (T', N, C) logits, (N,).

    The original's has five layers of 1024 units, 32 channels, kernel (21, 11) and time stride 1.
    """

    def __init__(self, model: ModelConfig):
        super().__init__()
        hidden, channels, kernel = model.hidden_size, model.conv_channels, model.conv2_kernel
        self.conv = nn.ModuleDict({"seq_module": nn.Sequential(
            nn.Conv2d(1, channels, (41, 11), (2, 2), (20, 5)),
            nn.BatchNorm2d(channels), nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(channels, channels, kernel, (2, model.conv2_time_stride),
                      tuple(size // 2 for size in kernel)),
            nn.BatchNorm2d(channels), nn.Hardtanh(0, 20, inplace=True))})
        self.rnns = nn.ModuleList()
        for i in range(model.hidden_layers):
            lstm = nn.LSTM(hidden if i else channels * 41, hidden, bidirectional=True)
            norm = {"batch_norm": nn.ModuleDict({"module": nn.BatchNorm1d(hidden)})} if i else {}
            self.rnns.append(nn.ModuleDict(norm | {"rnn": lstm}))
        output = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, 29, bias=False))
        self.fc = nn.ModuleList([nn.ModuleDict({"module": output})])

    def forward(self, x, input_length):
        lengths = input_length
        for module in self.conv["seq_module"]:
            if isinstance(module, nn.Conv2d):
                lengths = strided_size(lengths, module.stride[1])
            x = module(x)
            x = x.masked_fill(torch.arange(x.shape[3]) >= lengths[:, None, None, None], 0)
        x = x.flatten(1, 2).permute(2, 0, 1).contiguous()  # (N, C, F', T') -> (T', N, C*F')
        for layer in self.rnns:
            if "batch_norm" in layer:
                x = each_frame(layer["batch_norm"]["module"], x)
            x, _ = layer["rnn"](nn.utils.rnn.pack_padded_sequence(x, lengths))
            x, _ = nn.utils.rnn.pad_packed_sequence(x)
            x = x.unflatten(2, (2, -1)).sum(2)
        return each_frame(self.fc[0]["module"], x), lengths


def each_frame(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a module for (rows, H) to (T', N, H), padding included."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def permutation(size: int, seed: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


class Side(FrameworkSide):
    """A network with its training step, stored networks, and a batch."""

    def multiply(self, size: int, library: str) -> float:
        matrix = np.random.default_rng(0).standard_normal((size, size), np.float32)
        factor = torch.from_numpy(matrix) if library == TORCH else matrix
        return min(timed(lambda: factor @ factor)[0])

    def build(self, config: Config) -> None:
        """The network with random weights, the loss and the optimizer."""
        torch.manual_seed(0)
        self.config, optim = config, config.OptimConfig
        self.network = Network(config.ModelConfig)
        self.loss = nn.CTCLoss(self.labels.blank_index, reduction="sum", zero_infinity=True)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=optim.learning_rate, betas=optim.betas, eps=optim.eps,
            weight_decay=optim.weight_decay)

    def step(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        logits, lengths = self.network(batch.inputs, batch.input_length)
        loss = self.loss(logits.log_softmax(-1), batch.targets, lengths, batch.target_length)
        loss = loss / len(batch.inputs)
        self.optimizer.zero_grad()
        loss.backward()
        max_norm = self.config.TrainingConfig.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), max_norm)
        self.optimizer.step()
        return loss.item(), norm.item()

    @torch.no_grad()
    def save_weights(self, folder: Path) -> None:
        """Write the network, and its weights by our names (weights.npz).

        The batch norms get the statistics of the batch, and the projection large weights. Otherwise
        all probabilities would lie near 1/C, and a wrong network could pass the comparison.
        """
        projection = self.network.fc[0]["module"][1]
        projection.weight.normal_(0, 2 / projection.in_features ** 0.5)
        self.network(self.batch.inputs, self.batch.input_length)
        torch.save(self.network, folder / "network.pt")
        np.savez(folder / "weights.npz", **{
            our_name(name): tensor.numpy() for name, tensor in self.network.state_dict().items()
            if not name.endswith("num_batches_tracked")})

    def set_batch(self, batch: Batch) -> None:
        arrays = batch.inputs, batch.input_length, batch.targets, batch.target_length
        self.batch = Batch(*map(torch.from_numpy, arrays), batch.rows, batch.texts, [])

    def load_model(self, path: str) -> None:
        self.network = torch.load(path, weights_only=False).eval()

    @torch.inference_mode()
    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        logits, lengths = self.network(self.batch.inputs, self.batch.input_length)
        return logits.transpose(0, 1).softmax(-1).numpy(), lengths.numpy()

    def save_checkpoint(self, path: str) -> None:
        with open(path, "wb") as file:
            torch.save([self.network.state_dict(), self.optimizer.state_dict()], file)
            file.flush()
            os.fsync(file)  # as ours

    def load_checkpoint(self, path: str) -> None:
        weights, state = torch.load(path)
        self.network.load_state_dict(weights)
        self.optimizer.load_state_dict(state)

    def epoch_batches(self, epoch: int = 1, done: int = 0) -> DataLoader:
        """The batches of an epoch, from 0, but for the first `done`; one process loads ahead.

        The same utterances, of any length, share a batch in every epoch, and the batches come in a
        new order. The original takes files as the folder lists them, here a permutation does.
        """
        data = self.config.DataConfig
        manifest = read_manifest(data.train_manifest, self.labels)
        self.feature(manifest.audio_paths[0])  # librosa imports much now, not in every epoch
        rows = permutation(len(manifest), 0).split(data.batch_size)
        return DataLoader(
            range(len(manifest)), num_workers=1, multiprocessing_context="fork",
            batch_sampler=[rows[i].tolist() for i in permutation(len(rows), epoch)[done:]],
            collate_fn=partial(self.load_batch, manifest))

    def load_batch(self, manifest: Manifest, rows: list[int]) -> Batch:
        """A batch of tensors as `_collate_fn` makes it: longest first, all labels in a row."""
        utterances = []
        for row in rows:
            with open(manifest.transcript_paths[row], encoding="utf8") as file:
                transcript = self.labels.encode(file.read().strip().upper())
            spect = torch.from_numpy(self.feature(manifest.audio_paths[row]))
            utterances.append((spect, transcript))
        utterances.sort(key=lambda utterance: utterance[0].size(1), reverse=True)
        frames = torch.IntTensor([spect.size(1) for spect, _ in utterances])
        inputs = torch.zeros(len(utterances), 1, utterances[0][0].size(0), int(frames[0]))
        for row, (spect, _) in zip(inputs, utterances, strict=True):
            row[0].narrow(1, 0, spect.size(1)).copy_(spect)
        targets = torch.IntTensor([index for _, transcript in utterances for index in transcript])
        counts = torch.IntTensor([len(transcript) for _, transcript in utterances])
        return Batch(inputs, frames, targets, counts, rows, [], [])

    def features(self, paths: list[str]) -> float:
        torch.set_num_threads(1)
        return super().features(paths)

    def feature(self, path: str) -> np.ndarray:
        """(F, T): 16-bit samples over 32767, magnitude of the STFT, log1p, normalised."""
        samples, _ = soundfile.read(path, dtype="int16")
        stft = librosa.stft(samples.astype("float32") / 32767, n_fft=self.spect.n_fft,
                            hop_length=self.spect.hop_length, window=self.spect.window)
        magnitude, _ = librosa.magphase(stft)
        result = torch.FloatTensor(np.log1p(magnitude))
        mean, deviation = result.mean(), result.std()
        return result.add_(-mean).div_(deviation).numpy()

    def decode(self, probs: np.ndarray, sizes: np.ndarray) -> list[list[str]]:
        """A loop over every frame; the frames of the characters are found too, as originally."""
        characters = dict(enumerate(self.labels.characters))
        blank = characters[self.labels.blank_index]
        texts, offsets = [], []
        _, classes = torch.max(torch.from_numpy(probs), 2)
        for sequence, size in zip(classes, torch.from_numpy(sizes), strict=True):
            text, frames = "", []
            for i in range(size):
                char = characters[sequence[i].item()]
                if char == blank or (i and char == characters[sequence[i - 1].item()]):
                    continue
                text += char
                frames.append(i)
            texts.append([text])
            offsets.append([torch.tensor(frames, dtype=torch.int)])
        return texts
