"""Losses of GANs by the Fréchet distance of their samples (Lucic et al. 2018, table 2).

    genmod reproduce lucic-ranking --budget smoke|short|full

The cells are runs of experiments/gan_losses.py on MNIST and Fashion-MNIST (`tfds:fashion_mnist`).
The published distances are of Inception features, ours of those of genmod's judges: only the
rankings can be compared.
"""

from genmod.runs.evaluation import Options
from genmod.runs.reproduce import Budget, Cell, Table

PAPER = "Lucic et al. (Inception)"
DATA = {"MNIST": "mnist", "Fashion-MNIST": "tfds:fashion_mnist"}
PUBLISHED = {
    "minimax": (9.8, 29.6),
    "nonsaturating": (6.8, 26.5),
    "least_squares": (7.8, 30.7),
    "wasserstein": (6.7, 21.5),
    "wasserstein_gp": (20.3, 24.5),
    "dragan": (7.6, 27.7),
    "relativistic": (),
}


def cell(place, name, loss):
    """Returns the cell of a loss on the data set of a place."""
    values = PUBLISHED[loss]
    published = {PAPER: values[place]} if values else {}
    return Cell(f"{name}, {loss}", {"loss": loss, "dataset": DATA[name]}, published, group=name)


CELLS = tuple(cell(place, name, loss) for place, name in enumerate(DATA) for loss in PUBLISHED)
NAMES = tuple(each.name for each in CELLS)


def deviations(settings, num="10,000"):
    """Returns what a budget does otherwise than the paper, in sentences."""
    return (
        f"Distances are of the 128 features of genmod's judge of the data, between {num} samples "
        f"and {num} test images; published: Inception features.",
        f"One setting for all losses: {settings}; published: the best of 100 random settings each.",
        "Adam with b1 = 0.5 and one update of the critic a step, also for the Wasserstein losses; "
        "weights clipped at .01, gradient penalties with the weight 10; DRAGAN by the "
        "non-saturating loss.",
        "The discriminator has no batch normalisation, and that of the generator samples by "
        "standing statistics. BEGAN is left out, as its discriminator is another network.",
    )


TABLE = Table(
    title="Are GANs Created Equal? (Lucic et al. 2018), table 2: MNIST and Fashion-MNIST",
    experiment="gan_losses",
    quantity="Fréchet distance, smaller is better",
    metric=("distances", "frechet_distance"),
    sign=1,
    ranked=True,
    cells=CELLS,
    budgets={
        "smoke": Budget(
            time="a minute",
            cells=NAMES[1:2],
            seeds=1,
            config={"epochs": 1, "width": 4, "hidden": 16, "batch_size": 500},
            options=Options(num=1000, num_test=1000),
            orderings=(),
            deviations=deviations("an epoch of small networks", num="1,000"),
        ),
        "short": Budget(
            time="some hours on two cores",
            cells=NAMES,
            seeds=5,
            config={"epochs": 5, "width": 16, "hidden": 128},
            options=Options(),
            orderings=(),
            deviations=deviations("5 epochs with Adam at 2e-4, networks of 16 and 128 units"),
        ),
        "full": Budget(
            time="for a GPU",
            cells=NAMES,
            seeds=5,
            config={"epochs": 20},
            options=Options(),
            orderings=(),
            deviations=deviations("20 epochs with Adam at 2e-4"),
        ),
    },
)
