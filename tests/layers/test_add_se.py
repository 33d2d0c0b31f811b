import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from se_flax import add_se, create_model
from se_flax.errors import UserError


class SmallCNN(nn.Module):
    """Another author's network, whose layers have the names that linen gives them."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
        return nn.Dense(4)(x.mean((1, 2)))


class Block(nn.Module):
    """A unit of `ExampleResNet`."""

    filters: int
    conv: nn.Module
    norm: nn.Module
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = nn.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(x)))
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.conv(self.filters, (3, 3))(y))
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return nn.relu(residual + y)


class ExampleResNet(nn.Module):
    """The ResNet of Flax's ImageNet example: the modules have the same names and order."""

    stage_sizes: tuple[int, ...] = (2, 2)
    num_filters: int = 8

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = conv(self.num_filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = Block(self.num_filters * 2**i, conv, norm, strides)(x)
        return nn.Dense(4)(jnp.mean(x, axis=(1, 2)))


CASES = [
    (SmallCNN(), {}, ["Conv_0", "Conv_1"], ["Conv_0_se", "Conv_1_se"]),
    (
        ExampleResNet(),
        {"train": False},
        ["bn_init", "Block_*/norm_proj"],
        ["bn_init_se", "Block_2_norm_proj_se"],
    ),
    (
        create_model("resnet20_cifar", 4, stage_sizes=(1, 1), widths=(8, 16)),
        {"train": False},
        "stage?_unit1",
        ["stage1_unit1_se", "stage2_unit1_se"],
    ),
]


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(0), (8, 16, 16, 3))


@pytest.mark.parametrize(("module", "call", "layers", "blocks"), CASES)
def test_the_modules_own_weights_still_load_and_with_open_gates_give_the_same_output(
    module, call, layers, blocks, images
):
    before = module.init(jax.random.key(1), images, **call)
    wrapped = add_se(module, layers, reduction=4)
    variables = wrapped.init(jax.random.key(1), images, **call)
    params = variables["params"]
    assert params.keys() == before["params"].keys() | set(blocks)

    for block in blocks:  # sigmoid(100) is 1 in float32
        params[block]["expand"]["kernel"] *= 0
        params[block]["expand"]["bias"] += 100
    variables = {**before, "params": {**params, **before["params"]}}
    output = wrapped.apply(variables, images, **call)
    expected = module.apply(before, images, **call)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)

    for block in blocks:
        params[block]["expand"]["bias"] -= 200
    variables = {**before, "params": {**params, **before["params"]}}
    closed = wrapped.apply(variables, images, **call)
    assert not np.allclose(closed, output)


@pytest.mark.parametrize(("module", "call", "layers", "blocks"), CASES)
def test_the_result_trains(module, call, layers, blocks, images):
    model = add_se(module, layers, reduction=4)
    call = {"train": True} if call else {}
    labels = jnp.arange(8) % 4
    variables = model.init(jax.random.key(1), images, **call)
    first = variables["params"]
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, batch_stats, opt_state):
        def loss_of(params):
            logits, updated = model.apply(
                {"params": params, **batch_stats}, images, **call, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updated

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), batch_stats, opt_state, loss

    params, batch_stats = first, {k: v for k, v in variables.items() if k == "batch_stats"}
    opt_state, losses = optimizer.init(params), []
    for _ in range(30):
        params, batch_stats, opt_state, loss = step(params, batch_stats, opt_state)
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    for block in blocks:
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first[block], params[block])
        assert all(flax.traverse_util.flatten_dict(moved["expand"]).values())


def test_gates_are_sown_under_the_blocks_names(images):
    model = add_se(SmallCNN(), "Conv_1", reduction=4, gate="tanh")
    variables = model.init(jax.random.key(0), images)
    _, state = model.apply(variables, images, mutable="intermediates")
    assert state["intermediates"]["Conv_1_se"]["excitation"][0].shape == (8, 16)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("ese", {"expand"}),
        ("eca", {"conv"}),
        ("cbam", {"reduce", "expand", "spatial_conv"}),
        ("gather_excite", {"gather_conv1", "reduce", "expand"}),
        ("global_context", {"attend", "reduce", "reduce_norm", "expand"}),
    ],
)
def test_another_block_is_added_by_its_name(name, layers, images):
    fields = {"form": "theta+", "extent": 2} if name == "gather_excite" else {}
    variables = add_se(SmallCNN(), "Conv_1", se=name, **fields).init(jax.random.key(0), images)
    assert variables["params"]["Conv_1_se"].keys() == layers


def test_a_users_block_is_added_by_its_class(images):
    class Scale(nn.Module):
        factor: float = 1.0

        @nn.compact
        def __call__(self, x):
            return self.factor * x

    plain = SmallCNN()
    variables = plain.init(jax.random.key(0), images)
    same, other = (
        add_se(plain, "Conv_1", se=Scale, factor=f).apply(variables, images) for f in (1.0, 3.0)
    )
    np.testing.assert_allclose(same, plain.apply(variables, images), rtol=1e-6)
    assert not np.allclose(other, same)


def test_an_unknown_block_or_field_is_reported(wrong_types):
    with pytest.raises(UserError, match=r'no block "ecca" \(did you mean "eca"\?\)'):
        add_se(SmallCNN(), "Conv_0", se="ecca")
    with pytest.raises(UserError, match='block "ECA" has no field "reduction"; its fields are b, '):
        add_se(SmallCNN(), "Conv_0", reduction=4, se="eca")
    with pytest.raises(UserError, match="name of a block, or the class of a module, not None"):
        add_se(SmallCNN(), "Conv_0", se=None)


def test_it_works_inside_another_module(images):
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return add_se(SmallCNN(name="body"), "Conv_0")(x)

    params = Outer().init(jax.random.key(0), images)["params"]
    assert params["body"].keys() == {"Conv_0", "Conv_0_se", "Conv_1", "Dense_0"}


def test_an_unknown_layer_is_reported_with_a_list_of_the_known_ones(images):
    with pytest.raises(UserError, match=r'"Conv_2".*did you mean "Conv_.*it has Conv_0, Conv_1'):
        add_se(SmallCNN(), ["Conv_0", "Conv_2"]).init(jax.random.key(0), images)
    with pytest.raises(UserError, match='"Dense_0" that returns a feature map'):
        add_se(SmallCNN(), "Dense_0").init(jax.random.key(0), images)
    with pytest.raises(UserError, match="at least one layer"):
        add_se(SmallCNN(), [])


@pytest.mark.parametrize("lifted", [nn.remat, nn.jit])
@pytest.mark.parametrize("layer", ["block", "block/conv"])
def test_layers_inside_lifted_transformations_are_refused(lifted, layer):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(8, (3, 3), name="conv")(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return lifted(Block)(name="block")(nn.Conv(8, (3, 3), name="stem")(x))

    x = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(UserError, match=r"inside nn\.remat, nn\.jit"):
        add_se(Net(), layer, reduction=2).init(jax.random.key(0), x)
    variables = add_se(Net(), "stem", reduction=2).init(jax.random.key(0), x)
    assert "stem_se" in variables["params"]


def test_something_that_is_not_a_module_or_already_has_blocks_is_refused(wrong_types):
    with pytest.raises(UserError, match="needs a module"):
        add_se(nn.Conv, "conv")
    with pytest.raises(UserError, match="in one call"):
        add_se(add_se(nn.Conv(8, (3, 3)), "a"), "b")


@pytest.mark.parametrize("name", ["block", "module", "layers"])
def test_layers_may_have_any_name(name):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(8, (3, 3), name=name)(x)

    x = jnp.zeros((1, 4, 4, 3))
    variables = add_se(Net(), name, reduction=2).init(jax.random.key(0), x)
    assert set(variables["params"]) == {name, f"{name}_se"}
