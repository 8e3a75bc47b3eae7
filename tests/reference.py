"""The reference numbers in ../shared/reference by our names and in our class order."""

import numpy as np

from src.convert_torch import our_name

# class order of the original's labels: blank first; ours has it last. Written out here, not taken from the converter.
CLASS_ORDER = np.array([*range(1, 29), 0])


def our_tensors(reference, prefix: str) -> dict[str, np.ndarray]:
    """All arrays `PREFIX/NAME` of the reference under our names, the projection's rows in our class order."""
    names = {key: our_name(key.removeprefix(prefix)) for key in reference.files
             if key.startswith(prefix) and not key.endswith("num_batches_tracked")}
    return {name: reference[key][CLASS_ORDER] if name == "fc.weight" else reference[key]
            for key, name in names.items()}
