"""How deepspeech.pytorch gets from files to batches and from probabilities to texts, written again for comparison.

Sources: deepspeech.pytorch, `data_loader.py` (`SpectrogramParser`, `_collate_fn`, `DSRandomSampler`) and `decoder.py`
(`GreedyDecoder`). What it does for each file, frame or character is kept, because that is what is measured.
"""

from collections.abc import Iterator

import librosa
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.manifest import Manifest


def features(path: str, spect: SpectConfig) -> torch.Tensor:
    """A WAV file -> (F, T): 16-bit samples over 32767, STFT, magnitude and phase, log1p, mean 0 and deviation 1."""
    samples, _ = soundfile.read(path, dtype="int16")
    stft = librosa.stft(samples.astype("float32") / 32767, n_fft=spect.n_fft, hop_length=spect.hop_length,
                        win_length=spect.n_fft, window=spect.window)
    magnitude, _ = librosa.magphase(stft)
    result = torch.FloatTensor(np.log1p(magnitude))
    mean, deviation = result.mean(), result.std()
    result.add_(-mean)
    result.div_(deviation)
    return result


class Recordings(Dataset):
    """Item i: the spectrogram and the class indices of utterance i."""

    def __init__(self, manifest: Manifest, labels: Labels, spect: SpectConfig):
        self.manifest, self.labels, self.spect = manifest, labels, spect

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, list[int]]:
        with open(self.manifest.transcript_paths[index], encoding="utf8") as file:
            transcript = self.labels.encode(file.read().strip().upper())
        return features(self.manifest.audio_paths[index], self.spect), transcript


def collate(utterances: list[tuple[torch.Tensor, list[int]]]) -> tuple[torch.Tensor, ...]:
    """(F, T_i) each -> (N, 1, F, T) longest first, (N,) frame counts, labels one after the other, (N,) their counts."""
    utterances = sorted(utterances, key=lambda utterance: utterance[0].size(1), reverse=True)
    frames = torch.IntTensor([spect.size(1) for spect, _ in utterances])
    inputs = torch.zeros(len(utterances), 1, utterances[0][0].size(0), int(frames[0]))
    for row, (spect, _) in zip(inputs, utterances, strict=True):
        row[0].narrow(1, 0, spect.size(1)).copy_(spect)
    targets = torch.IntTensor([index for _, transcript in utterances for index in transcript])
    return inputs, frames, targets, torch.IntTensor([len(transcript) for _, transcript in utterances])


def random_batches(manifest: Manifest, labels: Labels, spect: SpectConfig, batch_size: int, limit: int | None = None,
                   ) -> Iterator[tuple[torch.Tensor, ...]]:
    """An epoch in random order, whatever the lengths, loaded ahead by one process."""
    order = torch.randperm(len(manifest), generator=torch.Generator().manual_seed(1)).tolist()
    batches = [order[i:i + batch_size] for i in range(0, len(order), batch_size)][:limit]
    yield from DataLoader(Recordings(manifest, labels, spect), batch_sampler=batches, num_workers=1,
                          collate_fn=collate)


class CharacterLoop:
    """Greedy decoding by a loop over every frame of every utterance, in Python.

    Args:
        labels: characters in class order, one of which is the blank.
    """

    def __init__(self, labels: Labels):
        self.int_to_char = dict(enumerate(labels.characters))
        self.blank = self.int_to_char[labels.blank_index]

    def decode(self, probs: torch.Tensor, sizes: torch.Tensor) -> tuple[list[list[str]], list[list[torch.Tensor]]]:
        """(N, T, C), (N,) -> [[text]], [[frames of its characters]] of each utterance."""
        _, classes = torch.max(probs, 2)
        decoded = [self._text(sequence, size) for sequence, size in zip(classes, sizes, strict=True)]
        return [[text] for text, _ in decoded], [[offsets] for _, offsets in decoded]

    def _text(self, sequence: torch.Tensor, size: torch.Tensor) -> tuple[str, torch.Tensor]:
        text, offsets = "", []
        for i in range(size):
            char = self.int_to_char[sequence[i].item()]
            if char == self.blank or (i and char == self.int_to_char[sequence[i - 1].item()]):
                continue
            text += char
            offsets.append(i)
        return text, torch.tensor(offsets, dtype=torch.int)
