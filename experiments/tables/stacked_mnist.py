"""Losses and penalties on the thousand modes of Stacked-MNIST (Huang et al. 2024).

    genmod reproduce stacked-mnist --budget smoke|short|full

The cells are runs of experiments/stacked_mnist.py. Their page has the modes beside the divergence,
and the curves of both.
"""

from genmod.runs.evaluation import Options
from genmod.runs.reproduce import Budget, Cell, Table

PAPER = "Huang et al."
CELLS = (
    Cell("non-saturating", {"loss": "nonsaturating", "r1": 0.0, "r2": 0.0}, {}),
    Cell("non-saturating + R1 + R2", {"loss": "nonsaturating"}, {PAPER: 0.9270}),
    Cell("relativistic", {"r1": 0.0, "r2": 0.0}, {}),
    Cell("relativistic + R1", {"r2": 0.0}, {}),
    Cell("relativistic + R1 + R2", {}, {PAPER: 0.0781}),
)
NAMES = tuple(cell.name for cell in CELLS)
SAMPLES = 26_000

ALWAYS = (
    "In the paper the relativistic loss with R1 alone diverges.",
    f"{SAMPLES:,} samples against uniform modes; genmod's judge of MNIST tells the digit in each "
    "colour. Another judge finds other modes in poor samples.",
)


def shortened(epochs, more=""):
    """Returns what a shorter budget does otherwise than the paper, in sentences."""
    return (
        f"{epochs} epochs of 128,000 stacks at 28 x 28 pixels with DCGAN's nets without "
        f"normalisation{more}; published: residual nets, on a GPU.",
        *ALWAYS,
    )


TABLE = Table(
    title="R3GAN (Huang et al. 2024), ablation: Stacked-MNIST",
    experiment="stacked_mnist",
    quantity="Reverse KL of the modes in nats, smaller is better",
    metric=("classes", "reverse_kl_of_modes"),
    sign=1,
    cells=CELLS,
    budgets={
        "smoke": Budget(
            time="two minutes",
            cells=NAMES[-1:],
            seeds=1,
            config={"epochs": 1, "width": 4, "batch_size": 2000},
            options=Options(num=1000, num_test=1000),
            orderings=(),
            deviations=("64 steps of tiny networks, and 1,000 samples.", *ALWAYS[:1]),
        ),
        "short": Budget(
            time="some hours of one core",
            cells=NAMES,
            seeds=3,
            config={"epochs": 3, "decay_epochs": 3},
            options=Options(num=SAMPLES),
            orderings=(),
            deviations=shortened(3, ", three seeds"),
        ),
        "full": Budget(
            time="for a GPU",
            cells=NAMES,
            seeds=3,
            config={"epochs": 50, "decay_epochs": 50, "net": "r3gan"},
            options=Options(num=SAMPLES),
            orderings=((NAMES[-1], NAMES[1]),),
            deviations=ALWAYS,
        ),
    },
)
