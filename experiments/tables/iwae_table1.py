"""Table 1 of *Importance Weighted Autoencoders*: test likelihood by objective, draws and layers.

    genmod reproduce iwae-table1 --budget smoke|short|full

The cells are runs of experiments/iwae.py (MNIST binarised anew at every draw; 784-200-200-50 tanh,
or two layers of latents), evaluated by importance sampling. `smoke` takes a minute on two cores and
`short` four hours of one core beside other work; `full` is the paper's protocol, for a GPU.
"""

from genmod.runs.evaluation import Options
from genmod.runs.reproduce import Budget, Cell, Table

# The paper and two re-implementations; the paper of MIWAE, PIWAE and CIWAE, and one.
SOURCES = ("Burda et al.", "nbip/IWAE", "xqding/IWAE", "Rainforth et al.", "pythae")


def cell(name, objective, num_samples, *published, estimator="standard", **config):
    """Returns a cell, with published values in the order of the sources, or None."""
    values = dict(zip(SOURCES, published, strict=False))
    found = {"objective": objective, "num_samples": num_samples, "estimator": estimator, **config}
    return Cell(name, found, {key: value for key, value in values.items() if value is not None})


CELLS = (
    cell("VAE, k = 1", "elbo", 1, 86.76, 86.35, 87.78),
    cell("VAE, k = 5", "elbo", 5, 86.47, 86.10, 87.15),
    cell("VAE, k = 50", "elbo", 50, 86.35, 86.06, 87.47),
    cell("IWAE, k = 5", "iwae", 5, 85.54, 85.18, 85.46),
    cell("IWAE, k = 50", "iwae", 50, 84.78, 84.59, 84.59),
    cell("IWAE with DReG, k = 5", "iwae", 5, None, 84.90, estimator="dreg"),
    cell("IWAE with DReG, k = 50", "iwae", 50, None, 84.32, estimator="dreg"),
    cell("MIWAE, 8 times 8", "miwae", 8, None, None, None, 84.97, 85.09, num_groups=8),
    cell("PIWAE, 8 times 8", "piwae", 8, None, None, None, 84.46, 84.58, num_groups=8),
    cell("CIWAE, beta = 0.05", "ciwae", 64, None, None, None, 84.57, 84.74, beta=0.05),
    cell("two layers: VAE, k = 1", "elbo", 1, 85.33, 84.83, layers=2),
    cell("two layers: VAE, k = 5", "elbo", 5, 85.01, 84.08, layers=2),
    cell("two layers: VAE, k = 50", "elbo", 50, 84.78, 83.89, layers=2),
    cell("two layers: IWAE, k = 5", "iwae", 5, 83.89, 83.48, layers=2),
    cell("two layers: IWAE, k = 50", "iwae", 50, 82.90, 82.82, layers=2),
)
FOUR = ("VAE, k = 1", "IWAE, k = 5", "IWAE, k = 50", "IWAE with DReG, k = 50")
SHORT_ORDERINGS = (
    ("IWAE, k = 5", "VAE, k = 1"),
    ("IWAE, k = 50", "IWAE, k = 5"),
    ("IWAE with DReG, k = 50", "IWAE, k = 50"),
)


# What all budgets do otherwise than the paper.
ALWAYS = (
    "Adam with b1 = 0.9 and second moments from zero, and the mean gradient of a shuffled batch; "
    "the authors' code has b1 = 0.99, second moments from one, and sums over unshuffled batches.",
    "All 60,000 training images.",
)


def shortened(epochs, num_draws, num_test):
    """Returns what a shorter budget does otherwise than the paper, in sentences."""
    return (
        f"{epochs} epochs of batches of 50 with Adam (epsilon 1e-8) on a cosine from 2e-3; "
        "published: 3,280 epochs of batches of 20 in eight stages (epsilon 1e-4).",
        f"{num_draws:,} draws for each of the first {num_test:,} test images; published: 5,000 "
        "draws and all 10,000. The error over seeds does not hold the choice of test images, which "
        "is about .5 nats for 2,000 of them, the same for all cells.",
        *ALWAYS,
    )


def shorter(time, cells, seeds, epochs, num_draws, num_test, orderings):
    """Returns a shorter budget."""
    return Budget(
        time=time,
        cells=cells,
        seeds=seeds,
        config={"epochs": epochs, "decay_epochs": epochs},
        options=Options(num_draws=num_draws, num_test=num_test),
        orderings=orderings,
        deviations=shortened(epochs, num_draws, num_test),
    )


TABLE = Table(
    title="Importance Weighted Autoencoders (Burda et al. 2016), Table 1: MNIST",
    experiment="iwae",
    quantity="-log p(x) of MNIST's test images in nats, smaller is better",
    metric=("likelihood", "log_likelihood"),
    sign=-1,
    cells=CELLS,
    budgets={
        "smoke": shorter("a minute", FOUR[:2], 1, 2, 100, 200, SHORT_ORDERINGS[:1]),
        "short": shorter("four hours of one core", FOUR, 3, 25, 5000, 2000, SHORT_ORDERINGS),
        "full": Budget(
            time="for a GPU",
            cells=tuple(each.name for each in CELLS),
            seeds=3,
            config={"epochs": 3280, "batch_size": 20, "schedule": "burda"},
            options=Options(num_draws=5000),
            orderings=SHORT_ORDERINGS,
            deviations=ALWAYS,
        ),
    },
)
