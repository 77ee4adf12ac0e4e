"""Makes distances.json: values of torch-fidelity and prdc on the features of feature_cases.py.

    PYTHON tests/kept/make_distances.py

PYTHON is an interpreter of its own, with torch 2.13.0, torch-fidelity 0.4.0 (installed with
`--no-deps`), prdc 0.2, scikit-learn, scipy, tqdm, pillow and requests. torchvision may be absent:
torch-fidelity imports it for its networks and data sets, which are not used here. It takes five
minutes on two cores.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))


if importlib.util.find_spec("torchvision") is None:
    for part in ("", ".datasets", ".transforms", ".transforms.functional"):
        sys.modules[f"torchvision{part}"] = types.ModuleType(f"torchvision{part}")
    vars(sys.modules["torchvision.datasets"]).update(CIFAR10=object, CIFAR100=object, STL10=object)

import feature_cases  # noqa: E402
import prdc  # noqa: E402
import torch  # noqa: E402
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc  # noqa: E402


def frechet(real, fake):
    one, other = (metric_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (real, fake))
    return metric_fid.fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]


def kernel(real, fake):
    """Mean and standard deviation over subsets: 100 of 1,000 rows if there are enough."""
    size = min(1000, len(real) // 2)
    settings = {"kid_subsets": 100 if size == 1000 else 20, "kid_subset_size": size}
    found = metric_kid.kid_features_to_metric(
        torch.from_numpy(real).double(),
        torch.from_numpy(fake).double(),
        rng_seed=2020,
        verbose=False,
        **settings,
    )
    mean, std = (found[f"kernel_inception_distance_{what}"] for what in ("mean", "std"))
    return {"num": settings["kid_subsets"], "size": size, "mean": mean, "std": std}


def neighbours(real, fake):
    found = {}
    for k in (3, 5):
        with contextlib.redirect_stdout(io.StringIO()):
            scores = prdc.compute_prdc(real, fake, nearest_k=k)
        found[str(k)] = {name: float(value) for name, value in scores.items()}
    return found


def inclusive(real, fake):
    """torch-fidelity's precision and recall; its first argument are the fakes."""
    found = metric_prc.prc_features_to_metric(
        torch.from_numpy(fake).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=3,
        verbose=False,
    )
    return {name: found[name] for name in ("precision", "recall")}


def main():
    values = {}
    for name, case in feature_cases.CASES.items():
        real, fake = case()
        values[name] = {
            "frechet": frechet(real, fake),
            "kernel": kernel(real, fake),
            "prdc": neighbours(real, fake),
            "inclusive": inclusive(real, fake),
        }
        print(name, values[name], flush=True)
    scores = metric_isc.isc_features_to_metric(torch.from_numpy(feature_cases.logits()))
    packages = ("torch", "torch-fidelity", "prdc", "numpy", "scikit-learn")
    content = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "classifier_score": [scores[f"inception_score_{what}"] for what in ("mean", "std")],
        "cases": values,
    }
    (HERE / "distances.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
