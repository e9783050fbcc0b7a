"""What the layer must compute, in plain float64 NumPy, one formula after the other."""

import numpy as np


class BatchNormalizationOracle:
    def __init__(self, channels, axis, momentum=0.99, epsilon=1e-3, unbiased=True):
        self.axis, self.momentum, self.epsilon, self.unbiased = axis, momentum, epsilon, unbiased
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.mean_weight = self.variance_weight = 0

    def __call__(self, x, training, where=None):
        x = np.moveaxis(np.asarray(x, np.float64), self.axis, -1)
        y = (x - self.mean) / np.sqrt(self.variance + self.epsilon)
        if training:
            rows = x.reshape(-1, x.shape[-1])
            kept = rows if where is None else rows[np.asarray(where).reshape(-1)]
            mean, variance = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
            if len(kept):
                mean, variance = kept.mean(axis=0), kept.var(axis=0)
            y = (x - mean) / np.sqrt(variance + self.epsilon)
            self.move(mean, variance, len(kept))
        return np.moveaxis(y, -1, self.axis)

    def move(self, mean, variance, m):
        if m >= 1:
            self.mean, self.mean_weight = self.average(self.mean, mean, m, self.mean_weight)
        if m >= 2:
            if self.unbiased:
                variance = m / (m - 1) * variance
            self.variance, self.variance_weight = self.average(
                self.variance, variance, m, self.variance_weight
            )

    def average(self, old, new, m, weight):
        if self.momentum is None:
            return (old * weight + new * m) / (weight + m), weight + m
        return old * self.momentum + new * (1 - self.momentum), weight
