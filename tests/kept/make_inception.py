"""Makes inception.npz: torch-fidelity's Inception outputs for the weights of inception_case.py.

    PYTHON tests/kept/make_inception.py

PYTHON is an interpreter of its own, with torch 2.13.0, torch-fidelity 0.4.0 (installed with
`--no-deps`), tqdm and pillow. torchvision may be absent: this network does not use it.
"""

import importlib.machinery
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))


class _Absent(types.ModuleType):
    """A module whose names are empty classes."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Torchvision:
    """Finds an empty torchvision."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def main():
    sys.meta_path.append(_Torchvision())
    import inception_case
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    asked = ["2048", "logits_unbiased", "logits"]
    with (
        torch.device("meta"),
        mock.patch.object(theirs, "load_state_dict_from_url"),
        mock.patch("torch.nn.Module.load_state_dict"),
    ):
        # Their network without its published weights, for names and shapes.
        named = theirs.FeatureExtractorInceptionV3("names", asked).state_dict()
    counters = {n: torch.tensor(0) for n in named if n.endswith("num_batches_tracked")}
    shapes = {n: tuple(array.shape) for n, array in named.items() if n not in counters}
    weights = {n: torch.tensor(a) for n, a in inception_case.weights(shapes).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({**weights, **counters}, path)
        network = theirs.FeatureExtractorInceptionV3("kept", asked, str(path))
    with torch.no_grad():
        outputs = network(torch.tensor(inception_case.images()).permute(0, 3, 1, 2))
    found = dict(zip(("pool", "unbiased_logits", "logits"), outputs, strict=True))
    np.savez_compressed(
        HERE / "inception.npz",
        shapes=np.array([f"{name} {shape}" for name, shape in sorted(shapes.items())]),
        **{name: array.numpy() for name, array in found.items()},
    )


if __name__ == "__main__":
    main()
