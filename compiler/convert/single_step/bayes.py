"""The scale lambda of every layer by Bayesian optimisation, as in Scale-and-Fire neurons (arXiv 2510.23383).

Thresholds and payloads of a layer are lambda times those of least error; what is optimised is the divergence from the ANN
on held images, and what synaptic operations cost. A tree-structured Parzen estimator proposes (optuna).
"""

from __future__ import annotations

import math

import optuna

from d2e.compiler.convert.evaluate import Listen
from d2e.compiler.convert.single_step.calibrate import Calibrator, State
from d2e.ir.nodes import Array

TRIALS, LOW, HIGH = 48, 0.5, 1.5


def scaled(
    calibrator: Calibrator, state: State, images: Array, logits: Array, price: float, seed: int,
    listen: Listen | None = None, *, most: float = math.inf,
) -> State:
    """The best of 48 networks, of which the first has every lambda at 1.

    Args:
        calibrator, state: a network and what has set it.
        images, logits: held images, and the ANN's answers on them.
        price: of ``calibrator.most_synops``, in nats.
        seed: of the proposals.
        listen: called with (done, total, what).
        most: synops on the held images; what needs more is not taken.
    """
    names = list(state.plan)

    def loss(trial: optuna.Trial) -> float:
        factors = {name: trial.suggest_float(name, LOW, HIGH, log=True) for name in names}
        kl, synops, *_ = calibrator.row(calibrator.rescaled(state, factors), images, logits)
        if listen is not None:
            listen(trial.number + 1, TRIALS, "scales")
        return math.inf if synops > most else kl + price * synops / calibrator.most_synops

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=8))
        study.enqueue_trial(dict.fromkeys(names, 1.0))
        study.optimize(loss, n_trials=TRIALS)
    finally:
        optuna.logging.set_verbosity(before)
    return calibrator.rescaled(state, study.best_params)
