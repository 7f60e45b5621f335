"""Input-adaptive time steps: the entropy at which a sample's answer may be read early (Eq. 16 and 17), from unlabelled data.

An early answer is taken for wrong where it differs from the answer after all steps, so no labels are needed.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from d2e.ir import EarlyExit
from d2e.ir.nodes import Array

Rule = Literal["calibrated", "fixed", "eq17-code", "eq17-text"]
RULES: tuple[str, ...] = get_args(Rule)
_BASE, _BETA = 0.6, 0.4
"""alpha_t = base + beta * exp(E_min - E_t) of Eq. 17, with the published constants for CIFAR."""
_ROUNDING = 1e-6
"""By which share the entropy of single precision may be off: samples that are alike shall exit in double precision too."""


def calibrate(evidence: Array, most: float, rule: Rule = "calibrated") -> EarlyExit:
    """A rule for a network that shows this evidence.

    ``calibrated``: a bound per step that saves the most steps while at most ``most`` of the answers change; ``fixed``: the
    same bound at every step. Eq. 17 contradicts its text, so both readings are here: ``eq17-code`` exits where the
    confidence 1 - H exceeds alpha_t, with the published constants, whatever changes by it; ``eq17-text`` exits where H falls
    below c * alpha_t, so that steps of high entropy E_t bring later exits, with the largest c that ``most`` allows.

    Args:
        evidence: [M, T, classes] the readout's membrane after every step, on images held out from calibration.
        most: share of the answers that may change. On these images it is one standard error less, as bounds that are chosen
            on them are too bold on others.
        rule: as above.

    Returns:
        Bounds for all steps but the last, at which everything exits anyhow.
    """
    steps = evidence.shape[1]
    plain = EarlyExit(np.full(steps, -1.0))
    entropy = np.stack([plain.entropy(evidence[:, t], t) for t in range(steps)], axis=1)
    most = max(0.0, most - np.sqrt(most / len(evidence)))
    answers = evidence.argmax(axis=2)
    wrong = answers != answers[:, -1:]
    if rule == "calibrated":
        bounds = _per_step(entropy, wrong, most)
    elif rule == "fixed":
        bounds = _largest(np.ones(steps), entropy, wrong, most)
    else:
        mean = np.array([entropy[~wrong[:, t], t].mean() if (~wrong[:, t]).any() else 1.0 for t in range(steps)])
        alpha = _BASE + _BETA * np.exp(mean.min() - mean)
        bounds = 1 - alpha if rule == "eq17-code" else _largest(alpha, entropy, wrong, most)
    bounds = np.array(bounds, np.float64)
    bounds[-1] = -1.0
    return EarlyExit(bounds, rule=rule)


def _changed(bounds: Array, entropy: Array, wrong: Array) -> int:
    """How many answers change."""
    out = entropy <= bounds
    out[:, -1] = True
    first = out.argmax(axis=1)
    return int(wrong[np.arange(len(wrong)), first].sum())


def _largest(shape: Array, entropy: Array, wrong: Array, most: float) -> Array:
    """The largest multiple of ``shape`` that changes few enough answers, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(31):
        middle = (low + high) / 2
        if _changed(middle * shape, entropy, wrong) <= most * len(wrong):
            low = middle
        else:
            high = middle
    return low * shape


def _per_step(entropy: Array, wrong: Array, most: float) -> Array:
    """Bounds of most saved steps minus a price for every changed answer, with the least price that changes few enough."""
    low, high = 0.0, float(len(wrong) * entropy.shape[1])
    best = np.full(entropy.shape[1], -1.0)
    for _ in range(40):
        price = np.sqrt(max(low, 1e-3) * high)
        bounds = _at_price(entropy, wrong, price)
        if _changed(bounds, entropy, wrong) <= most * len(wrong):
            best, high = bounds, price
        else:
            low = price
        if high - low < 1e-3 * high:
            break
    return best


def _at_price(entropy: Array, wrong: Array, price: float) -> Array:
    """From the first step on: let the samples of least entropy go while that saves more steps than it costs."""
    steps = entropy.shape[1]
    bounds, left = np.full(steps, -1.0), np.ones(len(wrong), bool)
    for t in range(steps - 1):
        index = np.flatnonzero(left)
        order = index[np.argsort(entropy[index, t], kind="stable")]
        if not order.size:
            break
        worth = np.cumsum((steps - 1 - t) - price * wrong[order, t])
        apart = np.append(np.diff(entropy[order, t]) > 0, True)  # a bound lies between samples of different entropy
        worth = np.where(apart, worth, 0.0)
        if worth.max() <= 0:
            continue
        last = int(worth.argmax())
        here = entropy[order[last], t]
        after = entropy[order[last + 1], t] if last + 1 < len(order) else (1 + 2 * _ROUNDING) * here
        bounds[t] = min((here + after) / 2, 1.0)
        left &= entropy[:, t] > bounds[t]
    return bounds
