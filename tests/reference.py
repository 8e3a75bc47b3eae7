"""The PyTorch original: its numbers by our names, and its network and features written again.

PyTorch is an argument of what needs it: it is not among the requirements, and the tests run without
it.
"""

import librosa
import numpy as np
import soundfile

from tools.convert_torch import our_name

# class order of the original's labels: blank first; ours has it last. Written out here, not taken
# from the converter.
CLASS_ORDER = np.array([*range(1, 29), 0])


def our_tensors(reference, prefix: str) -> dict[str, np.ndarray]:
    """All arrays `PREFIX/NAME` under our names, the projection's rows in our class order."""
    names = {key: our_name(key.removeprefix(prefix)) for key in reference.files
             if key.startswith(prefix) and not key.endswith("num_batches_tracked")}
    return {name: reference[key][CLASS_ORDER] if name == "fc.weight" else reference[key]
            for key, name in names.items()}


def build(torch, hidden: int, layers: int, channels: int = 32, context: int = 0, classes: int = 29):
    """Nested modules whose state_dict has the original's names, weights and statistics random."""
    nn = torch.nn
    torch.manual_seed(hidden)

    def tree(**modules):
        return nn.ModuleDict(modules)

    def layer(i):
        recurrent = nn.LSTM(hidden if i else channels * 41, hidden, bidirectional=not context)
        return tree(batch_norm=tree(module=nn.BatchNorm1d(hidden)),
                    rnn=recurrent) if i else tree(rnn=recurrent)

    convolutions = nn.Sequential(
        nn.Conv2d(1, channels, (41, 11), (2, 2), (20, 5)), nn.BatchNorm2d(channels),
        nn.Hardtanh(0, 20),
        nn.Conv2d(channels, channels, (21, 11), (2, 1), (10, 5)), nn.BatchNorm2d(channels),
        nn.Hardtanh(0, 20))
    output = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, classes, bias=False))
    model = tree(conv=tree(seq_module=convolutions),
                 rnns=nn.ModuleList(layer(i) for i in range(layers)),
                 fc=nn.ModuleList([tree(module=output)]))
    if context:
        model["lookahead"] = nn.ModuleList(
            [tree(conv=nn.Conv1d(hidden, hidden, context, groups=hidden, bias=False))])
    norms = [module for module in model.modules()
             if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics of what the network hears below
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    nn.init.normal_(output[1].weight, 0, 0.6 / hidden ** 0.5)  # probabilities that move by 0.5
    probabilities(torch, model.train(), torch.randn(4, 1, 161, 200), [200] * 4)
    return model.eval()


def logits(torch, model, inputs, input_lengths):
    """(N, 1, F, T), (N,) -> (T', N, C), (N,) lengths; sequences are packed for recurrent layers."""
    rnn = torch.nn.utils.rnn
    lengths = (torch.as_tensor(np.asarray(input_lengths, np.int64)) - 1) // 2 + 1
    x = torch.as_tensor(inputs)
    for layer in model["conv"]["seq_module"]:
        x = layer(x)
        x = x.masked_fill(torch.arange(x.shape[3]) >= lengths[:, None, None, None], 0)
    n, c, f, t = x.shape
    x = x.reshape(n, c * f, t).permute(2, 0, 1)
    for layer in model["rnns"]:
        if "batch_norm" in layer:
            x = layer["batch_norm"]["module"](x.flatten(0, 1)).view(t, n, -1)
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        x, _ = rnn.pad_packed_sequence(layer["rnn"](packed)[0])
        if layer["rnn"].bidirectional:
            x = x.view(t, n, 2, -1).sum(2)
    if "lookahead" in model:
        convolution = model["lookahead"][0]["conv"]
        x = torch.nn.functional.pad(x.permute(1, 2, 0), (0, convolution.kernel_size[0] - 1))
        x = convolution(x).permute(2, 0, 1).clamp(0, 20)
    return model["fc"][0]["module"](x.flatten(0, 1)).view(t, n, -1), lengths


def probabilities(torch, model, inputs, input_lengths) -> tuple[np.ndarray, list[int]]:
    """(N, 1, F, T), (N,) -> (N, T', C), (N,) lengths."""
    with torch.no_grad():
        outputs, lengths = logits(torch, model, inputs, input_lengths)
        return outputs.softmax(-1).transpose(0, 1).numpy(), lengths.tolist()


def loss_and_gradients(torch, model, inputs, input_lengths, targets, target_lengths):
    """The CTC loss summed over a batch in training, and {name: gradient}.

    Targets stand one after the other, and class 0 is the blank.
    """
    outputs, lengths = logits(torch, model.train(), inputs, input_lengths)
    loss = torch.nn.functional.ctc_loss(
        outputs.log_softmax(-1), torch.as_tensor(targets), lengths,
        torch.as_tensor(target_lengths), reduction="sum", zero_infinity=True)
    model.zero_grad()
    loss.backward()
    model.eval()
    return loss.item(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def features(torch, path, full_scale: int = 32767) -> np.ndarray:
    """(F, T): log1p magnitudes of 16-bit samples over 32767, normalised by torch.

    The original's own comment says that 32768 would be right, which is what we have.
    """
    samples, rate = soundfile.read(path, dtype="int16")
    samples = samples.astype("float32") / full_scale
    stft = librosa.stft(samples, n_fft=int(rate * 0.02), hop_length=int(rate * 0.01),
                        win_length=int(rate * 0.02), window="hamming")
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
