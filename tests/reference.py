"""The PyTorch original's names and class order in terms of ours, for the reference numbers in ../shared/reference."""

import numpy as np

# class order of the original's labels: blank first; ours has it last
CLASS_ORDER = np.array([*range(1, 29), 0])

_CONV = {"seq_module.0": "conv1", "seq_module.1": "norm1", "seq_module.3": "conv2", "seq_module.4": "norm2"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def our_name(name: str) -> str | None:
    """deepspeech.pytorch's name of a tensor -> ours; None for the batch counters, which we have no use for."""
    if name.endswith("num_batches_tracked"):
        return None
    parts = name.split(".")
    leaf = parts[-1]
    if parts[0] == "conv":
        layer = _CONV[".".join(parts[1:3])]
        return f"conv.{layer}.{_NORM[leaf] if layer.startswith('norm') else leaf}"
    if parts[0] == "rnns" and parts[2] == "batch_norm":
        return f"norms.{int(parts[1]) - 1}.cell.{_NORM[leaf]}"
    if parts[0] == "rnns":
        direction = "backward_lstm" if leaf.endswith("_reverse") else "forward_lstm"
        return f"rnns.{parts[1]}.{direction}.{leaf.removesuffix('_reverse')}"
    return f"fc_norm.cell.{_NORM[leaf]}" if parts[3] == "0" else f"fc.{leaf}"


def our_tensors(reference, prefix: str) -> dict[str, np.ndarray]:
    """All arrays `PREFIX/NAME` of the reference under our names, the projection's rows in our class order."""
    tensors = {}
    for key in reference.files:
        name = our_name(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if name:
            tensors[name] = reference[key][CLASS_ORDER] if name == "fc.weight" else reference[key]
    return tensors
