"""The expected results of the layer, in float64 NumPy, one channel and one batch at a time."""

import numpy as np


class BatchNormalizationOracle:
    """Statistics and outputs as the papers define them, without code of kbn.

    `where` contains weights that broadcast to x. `renorm` is a dict of limits. The correction uses
    the statistics before the step, also for virtual batches.
    """

    def __init__(
        self, channels, axis, momentum=0.99, epsilon=1e-3, unbiased=True,
        zero_debias=False, virtual=None, renorm=None, renorm_momentum=0.99, gamma=1.0, beta=0.0,
    ):  # fmt: skip
        self.axis, self.momentum, self.epsilon, self.unbiased = axis, momentum, epsilon, unbiased
        self.zero_debias, self.virtual = zero_debias, virtual
        self.renorm, self.renorm_momentum = renorm, renorm_momentum
        self.gamma, self.beta = np.broadcast_to(gamma, channels), np.broadcast_to(beta, channels)
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.stddev = np.ones(channels)
        self.renorm_mean, self.renorm_stddev = np.zeros(channels), np.ones(channels)
        self.state = {name: np.zeros((2, channels)) for name in ("mean", "spread")}
        self.refused = np.zeros(channels, int)

    def __call__(self, x, training, where=None):
        x = np.moveaxis(np.asarray(x, np.float64), self.axis, -1)
        where = np.ones_like(x) if where is None else self.spread(where, x)
        y = np.empty_like(x)
        normalize = self.train if training else self.infer
        with np.errstate(all="ignore"):
            for c in range(x.shape[-1]):
                y[..., c] = normalize(x[..., c], where[..., c], c)
                y[..., c][where[..., c] == 0] = self.beta[c]
        return np.moveaxis(y, -1, self.axis)

    def spread(self, where, x):
        where = np.asarray(where, np.float64)
        return np.broadcast_to(np.moveaxis(where, self.axis, -1), x.shape)

    def infer(self, x, _, c):
        normalized = (x - self.mean[c]) / np.sqrt(self.variance[c] + self.epsilon)
        return normalized * self.gamma[c] + self.beta[c]

    def train(self, x, w, c):
        size = self.virtual or max(len(x), 1)
        renorm = self.renorm_mean[c], max(self.renorm_stddev[c], np.sqrt(self.epsilon))
        parts = [slice(i, i + size) for i in range(0, len(x), size)] or [slice(0, 0)]
        y = np.empty_like(x)
        for part in parts:
            mean, variance, m = moments(x[part][w[part] > 0], w[part][w[part] > 0])
            sigma = np.sqrt(variance + self.epsilon)
            normalized = (x[part] - mean) / sigma
            if self.renorm is not None:
                normalized = normalized * self.r(sigma / renorm[1])
                normalized = normalized + self.d((mean - renorm[0]) / renorm[1])
            y[part] = normalized * self.gamma[c] + self.beta[c]
            self.move(mean, variance, m, c)
        return y

    def r(self, r):
        return min(max(r, self.renorm.get("rmin", 0)), self.renorm.get("rmax", np.inf))

    def d(self, d):
        return min(max(d, -self.renorm.get("dmax", np.inf)), self.renorm.get("dmax", np.inf))

    def move(self, mean, variance, m, c):
        finite = np.isfinite(mean) and np.isfinite(variance)
        if not (finite and m > 1.001):
            self.refused[c] += 1
        if not (finite and m > 0):
            return
        self.mean[c] = self.average("mean", self.mean[c], mean, m, c)
        if self.renorm is not None:
            p = self.renorm_momentum
            self.renorm_mean[c] = self.renorm_mean[c] * p + mean * (1 - p)
        if m <= 1.001:
            return
        kept = m / (m - 1) * variance if self.unbiased else variance
        if self.renorm is None:
            self.variance[c] = self.average("spread", self.variance[c], kept, m, c)
            return
        sigma = np.sqrt(kept + self.epsilon)
        self.stddev[c] = self.average("spread", self.stddev[c], sigma, m, c)
        self.variance[c] = max(self.stddev[c] ** 2 - self.epsilon, 0)
        biased = np.sqrt(variance + self.epsilon)
        self.renorm_stddev[c] = self.renorm_stddev[c] * p + biased * (1 - p)

    def average(self, name, old, new, m, c):
        total, hidden = self.state[name][:, c]
        if self.momentum is None:
            self.state[name][0, c] = total + m
            return (old * total + new * m) / (total + m)
        if self.zero_debias:
            hidden = hidden * self.momentum + new * (1 - self.momentum)
            self.state[name][:, c] = total + 1, hidden
            return hidden / (1 - self.momentum ** (total + 1))
        return old * self.momentum + new * (1 - self.momentum)


def moments(values, weights):
    """Return the weighted mean, the biased variance and Kish's effective number of values."""
    if not len(values):
        return 0.0, 0.0, 0.0
    mean = np.average(values, weights=weights)
    variance = np.average((values - mean) ** 2, weights=weights)
    return mean, variance, weights.sum() ** 2 / (weights**2).sum()
