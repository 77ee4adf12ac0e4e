"""The article's VAE in Keras 3 on TensorFlow.

It is a functional model, compiled and fitted. `article_vae.py` runs it. The variants are Keras's
own two modes:

    graph  `jit_compile=False`, as in the article's code
    jit    `jit_compile=True`: XLA compiles the step
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # Keras reads it when it is imported

import keras
from keras import layers, ops
from workers import Job, Turns, read_images


class Sampling(layers.Layer):
    """Layer that draws latents and adds the article's regulariser."""

    def __init__(self, seed: int, **options: object) -> None:
        super().__init__(**options)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, mean: keras.KerasTensor, logvar: keras.KerasTensor) -> keras.KerasTensor:
        """Draws latents [B, 4], given means and log-variances [B, 4]."""
        self.add_loss(-1e-4 * ops.mean(1 + logvar - ops.square(mean) - ops.exp(logvar)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * logvar) * noise


class OneEpochATurn(keras.callbacks.Callback):
    """Callback that makes every epoch of one `fit` wait for its turn.

    Thus `fit` itself is set up only once.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self.turns = turns

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Waits for the turn."""
        self.turns.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Answers with Keras's own loss, the mean over the epoch."""
        self.turns.end(loss=float((logs or {})["loss"]))


def train(turns: Turns, job: Job) -> None:
    """Trains an epoch per turn; answers with its mean loss."""
    if job.variant not in ("graph", "jit"):
        raise ValueError(f"expected graph or jit, got {job.variant!r}")
    keras.utils.set_random_seed(job.seed)
    pixels = read_images(job.archives).astype("float32") / 255
    images = pixels[: job.steps * job.batch_size]

    inputs = keras.Input((784,))
    hidden = layers.Dense(128, activation="relu")(inputs)
    mean, logvar = layers.Dense(4)(hidden), layers.Dense(4)(hidden)
    z = Sampling(job.seed)(mean, logvar)
    hidden = layers.Dense(128, activation="relu")(z)
    outputs = layers.Dense(784, activation="sigmoid")(hidden)

    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-3, rho=0.9, epsilon=1e-7),
        loss="binary_crossentropy",
        jit_compile=job.variant == "jit",
    )
    model.fit(
        images,
        images,
        batch_size=job.batch_size,
        epochs=job.epochs + 1,  # `Stop` ends `fit` in the turn after the last epoch
        verbose=0,
        callbacks=[OneEpochATurn(turns)],
    )
