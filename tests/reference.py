"""The PyTorch original: its numbers in ../shared/reference by our names, and its features written again.

PyTorch is an argument of what needs it: it is not among the requirements, and the tests run without it.
"""

import librosa
import numpy as np
import soundfile

from tools.convert_torch import our_name

# class order of the original's labels: blank first; ours has it last. Written out here, not taken from the converter.
CLASS_ORDER = np.array([*range(1, 29), 0])


def our_tensors(reference, prefix: str) -> dict[str, np.ndarray]:
    """All arrays `PREFIX/NAME` of the reference under our names, the projection's rows in our class order."""
    names = {key: our_name(key.removeprefix(prefix)) for key in reference.files
             if key.startswith(prefix) and not key.endswith("num_batches_tracked")}
    return {name: reference[key][CLASS_ORDER] if name == "fc.weight" else reference[key]
            for key, name in names.items()}


def build(torch, hidden: int, layers: int, channels: int = 32, context: int = 0, rnn: str = "LSTM"):
    """The network of the benchmarks with random weights, and uneven batch norm."""
    from benchmarks.pytorch import Network

    nn = torch.nn
    torch.manual_seed(hidden)
    model = Network(hidden, layers, channels, context)
    if rnn != "LSTM":
        for layer in model.rnns:
            width = layer["rnn"].input_size
            layer["rnn"] = getattr(nn, rnn)(width, hidden, bidirectional=not context)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    # probabilities that move by 0.5
    nn.init.normal_(model.fc[0]["module"][1].weight, 0, 0.6 / hidden ** 0.5)
    with torch.no_grad():  # gives the batch norms their statistics
        model(torch.randn(4, 1, 161, 200), torch.full((4,), 200))
    return model.eval()


def probabilities(torch, model, inputs, input_lengths) -> tuple[np.ndarray, list[int]]:
    """(N, 1, F, T), (N,) -> (N, T', C), (N,) lengths; the network wants the longest first."""
    order = np.argsort(-np.asarray(input_lengths), kind="stable")
    sorted_inputs, sorted_lengths = np.asarray(inputs)[order], np.asarray(input_lengths)[order]
    with torch.no_grad():
        logits, lengths = model(torch.from_numpy(sorted_inputs), torch.from_numpy(sorted_lengths))
    back = np.argsort(order)
    return logits.softmax(-1).transpose(0, 1).numpy()[back], lengths.numpy()[back].tolist()


def features(torch, path, full_scale: int = 32767) -> np.ndarray:
    """(F, T): 16-bit samples over 32767, magnitudes of the STFT, log1p, normalised by torch's mean and deviation.

    The original's own comment says that 32768 would be right, which is what we have.
    """
    samples, rate = soundfile.read(path, dtype="int16")
    samples = samples.astype("float32") / full_scale
    stft = librosa.stft(samples, n_fft=int(rate * 0.02), hop_length=int(rate * 0.01), win_length=int(rate * 0.02),
                        window="hamming")
    magnitude, _ = librosa.magphase(stft)
    spect = torch.FloatTensor(np.log1p(magnitude))
    mean, deviation = spect.mean(), spect.std()
    return spect.add_(-mean).div_(deviation).numpy()


def batch(spectrograms: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(F, T_i) each -> (N, 1, F, T) zero past their ends, (N,) frame counts."""
    lengths = np.array([s.shape[1] for s in spectrograms])
    inputs = np.zeros((len(lengths), 1, len(spectrograms[0]), lengths.max()), np.float32)
    for row, spect in zip(inputs, spectrograms, strict=True):
        row[0, :, :spect.shape[1]] = spect
    return inputs, lengths
