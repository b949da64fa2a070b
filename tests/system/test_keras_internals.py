"""Each private name of Keras that is used, on the smallest network that shows it: what breaks here, breaks where it is said."""

import keras
import numpy as np
import pytest

from headstart.system.keras_internals import (
    adam_slots,
    calls,
    give_memory,
    inlined,
    layer_scale,
    maker,
    output_shapes,
    readers,
    spread,
    times_called,
    traced_shape,
    with_named_operations,
    without_memory,
)
from helpers import called


@pytest.fixture
def network() -> keras.Model:
    """A convolution that two others read, one of which is called once more, elsewhere."""
    inputs = keras.Input((8, 8, 3), name="images")
    first = keras.layers.Conv2D(4, 1, name="first")(inputs)
    left, right = keras.layers.Conv2D(4, 1, name="left"), keras.layers.Conv2D(4, 1, name="right")
    total = keras.layers.Add(name="sum")([left(first), right(first)])
    right(keras.Input((8, 8, 4)))
    return keras.Model(inputs, keras.ops.multiply(total, 2.0))


def test_the_layer_that_made_a_tensor_is_known(network):
    """`_keras_history`: else batch norm is not folded, strides are not shortened, and copies lose the name of their input."""
    assert maker(network.get_layer("first").output) is network.get_layer("first")
    assert maker(network.inputs[0]).name == "images"


def test_the_layers_that_read_another_are_known(network):
    """`_outbound_nodes`: else a batch norm is folded into a convolution that something else reads, too."""
    assert [layer.name for layer in readers(network.get_layer("first"))] == ["left", "right"]


def test_how_often_a_layer_was_called_is_known(network):
    """`_inbound_nodes`: else a batch norm that is called twice is folded away for both calls."""
    assert times_called(network.get_layer("left")) == 1
    assert times_called(network.get_layer("right")) == 2


def test_the_calls_of_a_network_come_with_their_inputs_readers_first(network):
    """`_nodes_by_depth`: else what no layer reads is computed, or what one reads is not."""
    found = calls(network)
    names = [layer.name for layer, _ in found]
    assert sorted(names[1:]) == sorted(["sum", "left", "right", "first", "images"])
    for layer, inputs in found:
        for tensor in inputs:
            assert names.index(layer.name) < names.index(maker(tensor).name)
    assert [maker(tensor).name for tensor in dict(zip(names, found, strict=True))["sum"].inputs] == ["left", "right"]


def test_what_adam_keeps_of_a_variable_is_known():
    """`_get_variable_index`, `_trainable_variables`, `_momentums`, `_velocities`: else layers' rates and moments are mixed up."""
    variables = [keras.Variable(np.ones(2, np.float32)) for _ in range(3)]
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.9, beta_2=0.99)
    optimizer.apply([keras.ops.ones(2) * size for size in (1.0, 2.0, 3.0)], variables)
    for number, variable in enumerate(variables):
        slots = adam_slots(optimizer, variable)
        assert slots.place == number / 2
        np.testing.assert_allclose(np.asarray(slots.momentum), 0.1 * (number + 1), rtol=1e-5)
        np.testing.assert_allclose(np.asarray(slots.velocity), 0.01 * (number + 1) ** 2, rtol=1e-5)


def test_the_only_variable_is_the_first():
    optimizer, variable = keras.optimizers.Adam(0.1), keras.Variable(np.ones(2, np.float32))
    optimizer.build([variable])
    assert adam_slots(optimizer, variable).place == 0


def test_layers_are_built_without_memory_and_get_it_later():
    """`uninitialized_variables`, `_value`, `_initializer`, `_deferred_initialize`: else a file costs what it claims."""
    with without_memory():
        huge = keras.Sequential([keras.Input((3,)), keras.layers.Dense(10**12)])
        small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    assert huge.weights[0].shape == (3, 10**12)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])  # it would give memory to all that wait
    give_memory(small, [np.ones((3, 2)), np.ones(2)])
    np.testing.assert_array_equal(small.predict(np.ones((1, 3)), verbose=0), [[4, 4]])
    with without_memory():
        other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    give_memory(other)
    np.testing.assert_array_equal(other.predict(np.ones((1, 3)), verbose=0), [[0, 0]])


def test_layers_built_without_memory_draw_the_same_seeds():
    """`_initializer`, `_deferred_initialize`: else the same seed trains another network."""

    def layers() -> list[keras.layers.Layer]:
        return [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5), keras.layers.Dense(2)]

    keras.utils.set_random_seed(3)
    usual = keras.Sequential(layers())
    keras.utils.set_random_seed(3)
    with without_memory():
        first = keras.Sequential(layers())
    give_memory(first, [None] * 4)
    for one, other in zip(first.variables, usual.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_loaded_inside_the_block_is_known(tmp_path):
    """`get_current_value`: else a backbone of `keras.applications` loses its pretrained weights."""
    saved = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    saved.save_weights(tmp_path / "a.weights.h5")
    with without_memory() as scope:
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        network.load_weights(tmp_path / "a.weights.h5")
    give_memory(network, [scope.get_current_value(weight) for weight in network.weights])
    np.testing.assert_array_equal(network.get_weights()[0], saved.get_weights()[0])


def test_a_normalisation_that_was_adapted_computes_with_its_own_statistics():
    """`finalize_state`: else a copy of it computes with a mean of zero."""
    network = keras.Sequential([keras.Input((3,)), keras.layers.Normalization()])
    network.layers[0].adapt(np.float32([[1, 2, 3], [3, 4, 9]]))
    with without_memory():
        copy = keras.models.clone_model(network)
    give_memory(copy, network.get_weights())
    np.testing.assert_array_equal(copy.predict(np.float32([[2, 3, 6]]), verbose=0), [[0, 0, 0]])


def test_the_outputs_of_all_layers_are_known_of_nested_networks_too(network):
    """`_run_through_graph`, `_functional`: else a network within a network may have outputs of any size."""
    inner = keras.Sequential([keras.layers.UpSampling2D(4, name="large"), keras.layers.MaxPooling2D(4)], name="inner")
    outer = keras.Sequential([network, inner])
    found = dict(output_shapes(outer, (1, 8, 8, 3)))
    assert found["first"] == (1, 8, 8, 4)
    assert found["large"] == (1, 32, 32, 4)
    assert found["inner"] == (1, 8, 8, 4)
    assert times_called(network.get_layer("left")) == 1


def test_the_backend_says_what_it_cannot_run(network):
    """`compute_output_spec` of the backend: else a network that cannot run is found out in the middle of a training."""
    assert traced_shape(network, (2, 8, 8, 3)) == (2, 8, 8, 4)
    wrong = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Softmax(axis=99)])
    with pytest.raises(Exception, match="99"):
        traced_shape(wrong, (1, 8, 8, 3))


@pytest.mark.skipif(
    keras.backend.backend() != "jax" or len(keras.distribution.list_devices()) < 2,
    reason="JAX has several devices with XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
def test_a_model_moves_to_a_distribution_and_back():
    """`_layout`, `_value`: else a learner that shares layers with others cannot be trained on several devices."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    own = keras.metrics.MeanSquaredError()  # its variables are there before the model is moved
    model.compile("adam", "mse", metrics=["mae"], weighted_metrics=[own])
    model.optimizer.build(model.trainable_variables)
    before, names = model.get_weights(), keras.distribution.list_devices()
    with spread(model, keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)):
        model.fit(np.ones((len(names), 3)), np.ones((len(names), 2)), verbose=0)
        assert all(hasattr(one.value.sharding, "mesh") for one in (*model.variables, *model.metrics_variables, *own.variables))
    state = (*model.variables, *model.optimizer.variables, *model.metrics_variables, *own.variables)
    assert not any(hasattr(one.value.sharding, "mesh") for one in state)
    assert not np.array_equal(before[0], model.get_weights()[0])
    model.fit(np.ones((3, 3)), np.ones((3, 2)), verbose=0)  # on one device again


class TwoDense(keras.layers.Layer):
    """A layer that only calls others."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = keras.layers.Dense(4, name="first"), keras.layers.Dense(2, name="second")

    def call(self, inputs):
        return self.second(keras.layers.Identity()(self.first(inputs))) + 1.0


def test_a_graph_has_the_layers_inside_of_a_layer():
    inputs, new = keras.Input((3,)), keras.Input((3,))
    network = keras.Model(inputs, TwoDense()(inputs))
    flat = keras.Model(new, inlined(network, new, lambda layer: isinstance(layer, TwoDense)))
    assert [layer.name for layer in flat.layers[1:3]] == ["first", "second"]
    values = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(called(flat, values), called(network, values))
    assert keras.layers.Dense(2)(values).shape == (2, 2)  # calls outside are as before


def test_bare_operations_are_named_by_their_place():
    def network():
        inputs = keras.Input((3,))
        return with_named_operations(keras.Model(inputs, keras.ops.relu(inputs + 1.0), name="network"))

    first, second = network(), network()
    assert [layer.name for layer in first.layers[1:]] == [layer.name for layer in second.layers[1:]]
    assert called(first, np.zeros((1, 3), np.float32)).tolist() == [[1, 1, 1]]


def test_a_layer_scale_multiplies_each_channel():
    layer = layer_scale(2, "scale")
    layer(np.zeros((1, 2), np.float32))
    layer.set_weights([np.float32([2, 3])])
    assert called(layer, np.ones((1, 2), np.float32)).tolist() == [[2, 3]]
