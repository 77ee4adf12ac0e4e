import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import rng, train


def squares(keys, params, x):
    """Distance of x to a noisy point: a loss with a gradient known in closed form."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    losses = 0.5 * jnp.sum(jnp.square(params["w"][None] + noise - x), axis=1)
    return losses, {"first": x[:, 0]}


def init(key, x):
    return {"w": jax.random.normal(key, (2,))}


def test_a_step_is_gradient_descent_on_the_mean():
    learner = train.learner(init, squares, optax.sgd(0.1))
    x = jnp.arange(12.0).reshape(6, 2)
    state = learner.init(rng.root(0), x)
    after, metrics = learner.step(rng.root(1), state, x)
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(rng.per_example(rng.root(1), 6))
    residual = np.asarray(state.params["w"])[None] + np.asarray(noise) - np.asarray(x)
    np.testing.assert_allclose(metrics["loss"], 0.5 * (residual**2).sum(1).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["first"], x[:, 0].mean(), rtol=1e-6)
    expected = np.asarray(state.params["w"]) - 0.1 * residual.mean(0)
    np.testing.assert_allclose(after.params["w"], expected, rtol=1e-6)
    assert (int(state.step), int(after.step)) == (0, 1)


def test_rmsprop_is_kerass():
    # Keras: v <- rho v + (1 - rho) g^2; w <- w - lr g / sqrt(v + eps), epsilon inside the root.
    rho, eps, rate = 0.9, 1e-7, 1e-3
    learner = train.learner(
        lambda key, x: {"w": jnp.array([3e-4, -2.0])},
        lambda keys, params, x: (jnp.sum(x * params["w"][None], axis=1), {}),
        optax.rmsprop(rate, decay=rho, eps=eps, eps_in_sqrt=True),
    )
    x = jnp.array([[1e-4, 5.0]])
    state = learner.init(rng.root(0), x)
    w, v = np.array([3e-4, -2.0]), np.zeros(2)
    for step in range(5):
        state, _ = learner.step(rng.root(step), state, x)
        g = np.asarray(x[0], np.float64)
        v = rho * v + (1 - rho) * g**2
        w = w - rate * g / np.sqrt(v + eps)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)


def test_hyper_values_follow_their_schedule_inside_the_step():
    def weighted(hyper):
        def objective(keys, params, x):
            one = jnp.ones(len(x))
            values = {"beta": hyper["beta"] * one, "gamma": hyper["gamma"] * one}
            return hyper["beta"] * jnp.sum(params["w"]) * one, values

        return objective

    learner = train.learner(
        init, weighted, optax.sgd(1.0), hyper={"beta": lambda step: 0.5 * step, "gamma": 3.0}
    )
    x = jnp.zeros((4, 2))
    state = learner.init(rng.root(0), x)
    step = jax.jit(learner.step)
    for count in range(4):
        before = state.params["w"]
        state, metrics = step(rng.root(count), state, x)
        assert float(metrics["beta"]) == 0.5 * count
        assert float(metrics["gamma"]) == 3.0
        np.testing.assert_allclose(before - state.params["w"], 0.5 * count, rtol=1e-5)


def test_samples_come_from_keys_and_state():
    learner = train.learner(
        init,
        squares,
        optax.sgd(0.1),
        sample=lambda keys, params: params["w"][None] + jnp.zeros((len(keys), 2)),
    )
    state = learner.init(rng.root(0), jnp.zeros((1, 2)))
    assert learner.sample(rng.root(1), state, 3).shape == (3, 2)
    with pytest.raises(ValueError, match="num must be a positive whole number, got 0"):
        learner.sample(rng.root(1), state, 0)
    silent = train.learner(init, squares, optax.sgd(0.1))
    with pytest.raises(ValueError, match="this learner cannot sample"):
        silent.sample(rng.root(1), state, 3)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            lambda keys, p, x: (jnp.sum(p["w"]), {}),
            r"one loss per example, of shape \(4,\), got \(\)",
        ),
        (lambda keys, p, x: (x + p["w"][None], {}), r"of shape \(4,\), got \(4, 2\)"),
        (lambda keys, p, x: (x[:, 0], {"loss": x[:, 0]}), "aux must not use the name 'loss'"),
    ],
)
def test_an_objective_that_is_none_is_refused(objective, message):
    learner = train.learner(init, objective, optax.sgd(0.1))
    x = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=message):
        learner.step(rng.root(0), learner.init(rng.root(0), x), x)
