"""Makes disentanglement.json: what the authors' code scores on the codes of `support/factored.py`.

    pip install scikit-learn==1.9.1
    git clone https://github.com/google-research/disentanglement_lib
    git clone https://github.com/kylehkhsu/latent_quantization
    git clone https://github.com/nmichlo/disent
    python tests/kept/make_disentanglement.py disentanglement_lib latent_quantization disent

The scores by other versions of scikit-learn stay in the file. The code of InfoMEC runs with no
version after 1.6: its scores are those of scikit-learn 1.3.2 with numpy 1.26.4 and scipy 1.11.4.
Boosted trees differ between versions, by up to 3e-3 in an importance.

The commits of the clones are written beside the scores. What their code imports and does not need
here (gin, absl, six, ipdb, disent itself) is replaced by stubs.
"""

import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import sklearn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import factored  # noqa: E402

SEED = 7
"""Seed of scikit-learn's random numbers, for the trees and for the noise that breaks ties."""


def stub(name, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module
    return module


def stubs():
    def configurable(*_, **__):
        return lambda function: function

    gin = stub("gin", configurable=configurable, REQUIRED=None)
    gin.tf = stub("gin.tf")
    quiet = types.SimpleNamespace(info=lambda *_: None)
    stub("absl", logging=quiet)
    stub("six")
    stub("six.moves", range=range)
    stub("disent")
    for name in ("disent.dataset", "disent.dataset.data", "disent.util"):
        stub(name)
    stub("disent.dataset.data._groundtruth", GroundTruthData=GroundTruthData)
    stub("disent.util.iters", iter_chunks=lambda seq, size: np.reshape(seq, (-1, size)))


class GroundTruthData:
    """What disent's images ask of the class below them."""

    def __init__(self, transform=None):
        del transform

    def idx_to_pos(self, index):
        return np.array(np.unravel_index(index, self.factor_sizes))


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Groups:
    """Data and random numbers at once, as disentanglement_lib's FactorVAE score asks for them."""

    def __init__(self, codes, factors):
        self.codes, self.num_factors = codes, factors.shape[1]
        drawn = [
            group
            for seed, num in enumerate(factored.GROUPS.values())
            for group in factored.groups(codes, factors, num, seed)
        ]
        self.groups = iter(drawn)

    def sample_observations(self, num, random_state):
        assert num == len(self.codes)
        return self.codes

    def randint(self, num_factors):
        self.members, fixed = next(self.groups)
        return fixed

    def sample_factors(self, num, random_state):
        return np.zeros((num, self.num_factors))

    def sample_observations_from_factors(self, factors, random_state):
        return self.codes[self.members]


def library_scores(lib, codes, factors):
    sys.path.insert(0, str(lib))
    metrics = {
        name: importlib.import_module(f"disentanglement_lib.evaluation.metrics.{name}")
        for name in ("mig", "sap_score", "dci", "factor_vae")
    }
    utils = metrics["mig"].utils
    utils.make_discretizer = lambda codes: utils._histogram_discretize(codes, 20)
    train, test = factored.halves(codes, factors)
    four = train[0].T, train[1].T, test[0].T, test[1].T
    found = {
        "mig": metrics["mig"]._compute_mig(codes.T, factors.T)["discrete_mig"],
        "sap": metrics["sap_score"]._compute_sap(*four, False)["SAP_score"],
        "sap_ordered": metrics["sap_score"]._compute_sap(*four, True)["SAP_score"],
    }

    importance, accuracies = [], []
    for place in range(factors.shape[1]):
        np.random.seed(SEED)  # noqa: NPY002 (their trees use the global generator)
        column = slice(place, place + 1)
        one = metrics["dci"].compute_importance_gbt(
            four[0], four[1][column], four[2], four[3][column]
        )
        importance.append(one[0][:, 0])
        accuracies.append(one[2])
    importance = np.stack(importance, axis=1)
    found["importance"] = importance.tolist()
    found["disentanglement"] = metrics["dci"].disentanglement(importance)
    found["completeness"] = metrics["dci"].completeness(importance)
    found["informativeness"] = np.mean(accuracies)

    vae = metrics["factor_vae"]
    # As their study configures it.
    vae._prune_dims.__defaults__ = (0.05,)
    data = Groups(codes, factors)
    found["factor_vae"] = vae.compute_factor_vae(
        data,
        lambda observations: observations,
        data,
        None,
        factored.GROUP_SIZE,
        factored.GROUPS["train"],
        factored.GROUPS["test"],
        len(codes),
    )["eval_accuracy"]
    return found


def infomec_scores(repository, codes, factors, discrete):
    infomec = load(repository / "disentangle" / "metrics" / "infomec.py", "infomec")
    np.random.seed(SEED)  # noqa: NPY002 (their noise is that of the global generator)
    found = infomec.compute_infomec(factors, codes, discrete)
    return {
        "modularity": found["infom"],
        "compactness": found["infoc"],
        "explicitness": found["infoe"],
        "information": found["nmi"].T.tolist(),
        "active": found["active_latents"].tolist(),
    }


def squares(repository):
    module = load(repository / "disent" / "dataset" / "data" / "_groundtruth__xysquares.py", "xy")
    hashes = {}
    for spacing, grid_size in ((8, None), (4, None), (5, 8), (1, 8)):
        data = module.XYSquaresData(grid_spacing=spacing, grid_size=grid_size, no_warnings=True)
        images = [data._get_observation(i) for i in factored.spread(np.prod(data.factor_sizes))]
        digest = hashlib.sha256(np.stack(images).tobytes())
        hashes[f"{spacing} {grid_size}"] = {
            "sizes": list(data.factor_sizes),
            "sha256": digest.hexdigest(),
        }
    return hashes


def commit(repository):
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(lib, quantization, disent):
    stubs()
    scores = {}
    for name, make in factored.CASES.items():
        codes, factors = make()
        discrete = name == "quantized"
        scores[name] = library_scores(lib, codes, factors)
        if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7):
            scores[name]["infomec"] = infomec_scores(quantization, codes, factors, discrete)
    path = HERE / "disentanglement.json"
    before = json.loads(path.read_text())["scores"] if path.exists() else {}
    kept = {
        "commits": {path.name: commit(path) for path in (lib, quantization, disent)},
        "seed": SEED,
        "xy_squares": squares(disent),
        "scores": before | {sklearn.__version__: scores},
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
