import re

import keras
import pytest
from keras import layers

import kbn
from kbn.introspection.layer_tree import check_layers, layer_paths, select


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(3, name="d"), layers.Dense(3, name="d"), layers.ReLU(name="r")]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


@pytest.fixture
def model():
    inner = keras.Sequential(
        [layers.Input((3,)), layers.Dense(3, name="d"), Block(name="b")], name="inner"
    )
    return keras.Sequential(
        [layers.Input((3,)), Block(name="b"), inner, kbn.BatchNormalization(name="bn")]
    )


def test_every_layer_has_a_unique_path(model):
    assert list(layer_paths(model)) == [
        "b", "b/d", "b/d_2", "b/r", "inner", "inner/d", "inner/b", "inner/b/d", "inner/b/d_2",
        "inner/b/r", "bn",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ["bn"]),
        ("b/*", ["b/d", "b/d_2", "b/r"]),
        (["bn", "inner/d"], ["inner/d", "bn"]),
        (layers.ReLU, ["b/r", "inner/b/r"]),
        (lambda layer: layer.name == "inner", ["inner"]),
    ],
)
def test_selection_in_model_order(model, wanted, found):
    assert list(select(wanted, layer_paths(model))) == found


def test_selection_by_the_layer_itself(model):
    assert list(select(model.layers[0], layer_paths(model))) == ["b"]


def test_without_normalization_the_layers_with_trainable_weights():
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, name="d"), layers.ReLU()])
    assert list(select(None, layer_paths(model))) == ["d"]


def test_a_model_without_such_layers_raises():
    model = keras.Sequential([layers.Input((3,)), layers.ReLU(name="only")])
    with pytest.raises(ValueError, match=r"Layers of the model: only\."):
        select(None, layer_paths(model))


def test_no_match_lists_the_paths_there_are(model):
    message = "Received: 'conv*'. Layers of the model: b, b/d, b/d_2, b/r, inner,"
    with pytest.raises(ValueError, match=re.escape(message)):
        select(["bn", "conv*"], layer_paths(model))


@pytest.mark.parametrize(
    ("wrong", "error", "received"),
    [
        (3, TypeError, "3 in layers"),
        (int, TypeError, "<class 'int'> in layers"),
        ([], ValueError, "layers=[]"),
    ],
)
def test_wrong_arguments_raise_without_a_model(wrong, error, received):
    with pytest.raises(error, match=re.escape(f"Received: {received}")):
        check_layers(wrong)
