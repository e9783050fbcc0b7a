"""Whether a model trains on the loss of `compile`, as its code shows."""

import keras
import pytest

from kbn.introspection.trained_loss import trains_on_its_loss


class Own(keras.Model):
    def call(self, x):
        return x


class Calls(Own):
    def train_step(self, data):
        return {"loss": self.compute_loss(*data)}


class CallsInside(Own):
    def train_step(self, data):
        def loss():
            return self.compute_loss(*data)

        return {"loss": loss()}


class CallsInAMethod(Own):
    def train_step(self, data):
        return self.step(data)

    def step(self, data):
        return self.other(data), self.step  # calls itself too

    def other(self, data):
        return self.compute_loss(*data)


class Inherits(Own):
    def train_step(self, data):
        return super().train_step(data)


class Contrasts(Own):
    def train_step(self, data):
        return {"loss": self.loss(self.net(data[0]), self.net(data[1]))}


class InheritsFromOne(Contrasts):
    pass


class CallsTheStepOfOne(Contrasts):
    def train_step(self, data):
        return super().train_step(data)


class CallsTheStepOfCalls(Calls):
    def train_step(self, data):
        return {**super().train_step(data), "more": 0.0}


class Distills(Own):
    """Trains a student on the student's own loss."""

    def train_step(self, data):
        return {"loss": self.student.compute_loss(*data)}


class StepsItsStudent(Own):
    def train_step(self, data):
        return self.student.train_step(data)


def loss_of(model, data):
    return model.compute_loss(*data)


class CallsAFunction(Own):
    def train_step(self, data):
        return {"loss": loss_of(self, data)}


class CallsAProperty(Own):
    @property
    def total(self):
        return self.compute_loss(None)

    def train_step(self, data):
        return {"loss": self.total}


class ContrastsByAFunction(Own):
    def train_step(self, data):
        return {"loss": plain(data)}


def plain(data):
    return sum(data)


CASES = {
    True: [
        Own, Calls, CallsInside, CallsInAMethod, Inherits, CallsTheStepOfCalls, CallsAFunction,
        CallsAProperty,
    ],
    False: [
        Contrasts, InheritsFromOne, CallsTheStepOfOne, Distills, StepsItsStudent,
        ContrastsByAFunction,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"), [(make, found) for found, makes in CASES.items() for make in makes]
)
def test_the_code_of_train_step_shows_the_loss(make, expected):
    assert trains_on_its_loss(make()) is expected


def test_a_model_without_a_class_of_its_own_trains_on_its_loss():
    assert trains_on_its_loss(keras.Sequential([keras.layers.Dense(1)]))


def test_a_train_step_of_the_object_counts():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.train_step = lambda data: {"loss": 0.0}
    assert not trains_on_its_loss(model)


def test_a_layer_trains_on_nothing():
    assert not trains_on_its_loss(keras.layers.Dense(1))
