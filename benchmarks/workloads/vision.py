"""Convolutional networks: residual, depthwise, a diffusion U-Net, an iterated filter."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.adamw import AdamWState, adamw, adamw_state, half
from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import (
    attention,
    conv,
    cross_entropy,
    dense,
    dense_params,
)


def _pool(x: jax.Array) -> jax.Array:
    """3 x 3 maximum with stride 2."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )


def _scale(p: Any, x: jax.Array) -> jax.Array:
    """Batch normalisation folded to a scale and a shift, as at inference."""
    return x * p["scale"] + p["shift"]


def _conv_params(size: int, inputs: int, outputs: int, groups: int = 1) -> Any:
    return {
        "w": spec(size, size, inputs // groups, outputs),
        "scale": spec(outputs),
        "shift": spec(outputs),
    }


def _unit(p: Any, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    return _scale(p, conv(x, p["w"], stride, groups))


def _resnet_params(blocks: tuple[int, ...], bottleneck: bool) -> Any:
    stages: list[Any] = []
    inputs = 64
    for stage, count in enumerate(blocks):
        inner = 64 * 2**stage
        outputs = inner * (4 if bottleneck else 1)
        for index in range(count):
            sizes = [(1, inputs, inner), (3, inner, inner), (1, inner, outputs)]
            if not bottleneck:
                sizes = [(3, inputs, inner), (3, inner, inner)]
            entry = {"convs": [_conv_params(*size) for size in sizes]}
            if index == 0 and (inputs != outputs or stage > 0):
                entry["skip"] = _conv_params(1, inputs, outputs)
            stages.append(entry)
            inputs = outputs
    head = dense_params(inputs, 1000)
    return {"stem": _conv_params(7, 3, 64), "blocks": stages, "head": head}


def _resnet_logits(p: Any, images: jax.Array, strides: list[int]) -> jax.Array:
    x = _pool(jax.nn.relu(_unit(p["stem"], images, 2)))
    for entry, stride in zip(p["blocks"], strides, strict=True):
        y = x
        middle = 1 if len(entry["convs"]) == 3 else 0
        for i, unit in enumerate(entry["convs"]):
            y = _unit(unit, y, stride if i == middle else 1)
            y = y if i == len(entry["convs"]) - 1 else jax.nn.relu(y)
        skip = _unit(entry["skip"], x, stride) if "skip" in entry else x
        x = jax.nn.relu(y + skip)
    return dense(p["head"], x.mean((1, 2)))


def _resnet(blocks: tuple[int, ...], bottleneck: bool, batch: int, train: bool) -> Call:
    params = _resnet_params(blocks, bottleneck)
    strides = [
        2 if stage > 0 and index == 0 else 1
        for stage, count in enumerate(blocks)
        for index in range(count)
    ]
    images = spec(batch, 224, 224, 3)

    def classify(p: Any, images: jax.Array) -> jax.Array:
        return _resnet_logits(p, images, strides)

    def train_step(state: AdamWState, images: jax.Array, labels: jax.Array) -> Any:
        def loss_fn(p: Any) -> jax.Array:
            return cross_entropy(classify(p, images), labels)

        loss, grads = jax.value_and_grad(loss_fn)(half(state.params))
        return adamw(state, grads), loss

    if not train:
        return call(classify, params, images)
    labels = spec(batch, dtype=jnp.int32)
    return call(train_step, adamw_state(params), images, labels, donate=(0,))


def _mobilenet(batch: int = 8) -> Call:
    """MobileNet-v2: inverted residuals around depthwise convolutions."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    plan += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[Any] = []
    static: list[tuple[int, int]] = []  # Stride and width inside.
    inputs = 32
    for expand, outputs, count, stride in plan:
        for index in range(count):
            inner = inputs * expand
            layers.append(
                {
                    "up": _conv_params(1, inputs, inner),
                    "depthwise": _conv_params(3, inner, inner, groups=inner),
                    "down": _conv_params(1, inner, outputs),
                }
            )
            static.append((stride if index == 0 else 1, inner))
            inputs = outputs

    def classify(p: Any, images: jax.Array) -> jax.Array:
        x = jax.nn.relu6(_unit(p["stem"], images, 2))
        for layer, (stride, inner) in zip(p["blocks"], static, strict=True):
            y = jax.nn.relu6(_unit(layer["up"], x))
            y = jax.nn.relu6(_unit(layer["depthwise"], y, stride, inner))
            y = _unit(layer["down"], y)
            x = x + y if x.shape == y.shape else y
        return dense(p["head"], jax.nn.relu6(_unit(p["last"], x)).mean((1, 2)))

    params = {
        "stem": _conv_params(3, 3, 32),
        "blocks": layers,
        "last": _conv_params(1, 320, 1280),
        "head": dense_params(1280, 1000),
    }
    return call(classify, params, spec(batch, 224, 224, 3))


def _group_norm(x: jax.Array, groups: int = 32) -> jax.Array:
    h = x.astype(jnp.float32).reshape(*x.shape[:3], groups, -1)
    mean = h.mean((1, 2, 4), keepdims=True)
    h = (h - mean) * jax.lax.rsqrt(h.var((1, 2, 4), keepdims=True) + 1e-5)
    return h.reshape(x.shape).astype(x.dtype)


def _res_params(inputs: int, outputs: int) -> Any:
    return {
        "conv1": spec(3, 3, inputs, outputs),
        "time": dense_params(512, outputs),
        "conv2": spec(3, 3, outputs, outputs),
        "skip": spec(1, 1, inputs, outputs),
    }


def _res(p: Any, x: jax.Array, time: jax.Array) -> jax.Array:
    h = conv(jax.nn.silu(_group_norm(x)), p["conv1"])
    h = h + dense(p["time"], time)[:, None, None, :]
    return conv(jax.nn.silu(_group_norm(h)), p["conv2"]) + conv(x, p["skip"])


def _self_attention(p: Any, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    qkv = dense(p["qkv"], _group_norm(x).reshape(batch, height * width, channels))
    q, k, v = jnp.split(
        qkv.reshape(batch, height * width, 24, channels // 8), 3, axis=2
    )
    mixed = attention(q, k, v).reshape(batch, height * width, channels)
    return x + dense(p["proj"], mixed).reshape(x.shape)


def _unet(batch: int = 2, base: int = 128) -> Call:
    """One denoising step of a latent-diffusion U-Net: 64 x 64 x 4, two levels, attention on the lower one."""
    widths = [base, 2 * base]

    def attn(width: int) -> Any:
        return {
            "qkv": dense_params(width, 3 * width),
            "proj": dense_params(width, width),
        }

    def denoise(p: Any, x: jax.Array, time: jax.Array) -> jax.Array:
        rates = jnp.exp(-jnp.arange(64, dtype=jnp.float32) * (9.2 / 64))
        angles = time[:, None].astype(jnp.float32) * rates
        emb = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(x.dtype)
        emb = jax.nn.silu(dense(p["time2"], jax.nn.silu(dense(p["time1"], emb))))
        h, skips = conv(x, p["in"]), []
        for level in p["down"]:
            h = _res(level["res"], h, emb)
            h = _self_attention(level["attn"], h) if "attn" in level else h
            skips.append(h)
            h = conv(h, level["conv"], 2)
        h = _self_attention(p["mid"]["attn"], _res(p["mid"]["res"], h, emb))
        for level, skip in zip(p["up"], reversed(skips), strict=True):
            h = jax.image.resize(h, (*skip.shape[:3], h.shape[-1]), "nearest")
            h = _res(level["res"], jnp.concatenate([h, skip], -1), emb)
            h = _self_attention(level["attn"], h) if "attn" in level else h
        return conv(jax.nn.silu(_group_norm(h)), p["out"])

    down: list[Any] = []
    up: list[Any] = []
    inputs = base
    for i, width in enumerate(widths):
        level: Any = {
            "res": _res_params(inputs, width),
            "conv": spec(3, 3, width, width),
        }
        rise: Any = {
            "res": _res_params(2 * width if width == widths[-1] else 3 * width, width)
        }
        if i > 0:
            level["attn"], rise["attn"] = attn(width), attn(width)
        down.append(level)
        up.insert(0, rise)
        inputs = width
    params = {
        "time1": dense_params(128, 512),
        "time2": dense_params(512, 512),
        "in": spec(3, 3, 4, base),
        "down": down,
        "mid": {"res": _res_params(widths[-1], widths[-1]), "attn": attn(widths[-1])},
        "up": up,
        "out": spec(3, 3, base, 4),
    }
    return call(denoise, params, spec(batch, 64, 64, 4), spec(batch, dtype=jnp.int32))


def _deblur(size: int = 1024, width: int = 15) -> Call:
    """Richardson-Lucy deconvolution until the step is small: convolutions in a while loop."""

    def deblur(image: jax.Array, kernel: jax.Array) -> jax.Array:
        flipped = kernel[::-1, ::-1]

        def unfinished(carry: Any) -> jax.Array:
            _, change, count = carry
            return (change > 1e-4) & (count < 50)

        def body(carry: Any) -> Any:
            estimate, _, count = carry
            ratio = image / (conv(estimate, kernel) + 1e-6)
            new = estimate * conv(ratio, flipped)
            return new, jnp.abs(new - estimate).mean(), count + 1

        first = (image, jnp.float32(jnp.inf), jnp.int32(0))
        return jax.lax.while_loop(unfinished, body, first)[0]

    image = spec(1, size, size, 1, dtype=jnp.float32)
    return call(deblur, image, spec(width, width, 1, 1, dtype=jnp.float32))


WORKLOADS = (
    Workload(
        name="resnet18",
        family="resnet",
        make=lambda: _resnet((2, 2, 2, 2), False, 8, train=False),
        about="ResNet-18 forward, 8 images of 224 x 224",
    ),
    Workload(
        name="resnet50",
        family="resnet",
        make=lambda: _resnet((3, 4, 6, 3), True, 8, train=False),
        about="ResNet-50 forward, 8 images of 224 x 224",
    ),
    Workload(
        name="resnet10_train",
        family="resnet",
        make=lambda: _resnet((1, 1, 1, 1), False, 32, train=True),
        about="ResNet-10 training step with AdamW, 32 images",
    ),
    Workload(
        name="mobilenet_v2",
        family="mobilenet",
        make=_mobilenet,
        about="MobileNet-v2 forward (depthwise), 8 images of 224 x 224",
    ),
    Workload(
        name="unet_denoise",
        family="unet",
        make=_unet,
        about="one denoising step of a latent-diffusion U-Net, 2 x 64 x 64 x 4",
    ),
    Workload(
        name="deblur_while",
        family="filter",
        make=_deblur,
        about="Richardson-Lucy deconvolution of a 1024 x 1024 image in a while loop",
    ),
)
