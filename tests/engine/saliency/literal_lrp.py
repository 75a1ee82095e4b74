"""A plain ViT and its saliency maps, one image at a time, in numpy loops: slow, literal, and sharing no code.

Written from the papers' formulas. Gradients are complex-step derivatives: Im f(x + i e) / e, exact to rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor

Array = NDArray[Any]
STEP = 1e-30


@dataclass
class Run:
    """Everything that a forward pass computed, by name; lists have an entry for each block."""

    logits: Array = field(default_factory=lambda: np.zeros(0))
    values: dict[str, list[Array]] = field(default_factory=dict)

    def keep(self, name: str, value: Array) -> Array:
        self.values.setdefault(name, []).append(value)
        return value


@dataclass(frozen=True)
class LiteralViT:
    """timm's VisionTransformer with a class token and square patches, from its state dictionary in float64."""

    weights: Mapping[str, Array]
    depth: int
    heads: int
    patch: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor], *, depth: int = 2, heads: int = 2, patch: int = 16) -> Self:
        return cls({name: tensor.double().numpy() for name, tensor in state.items()}, depth, heads, patch)

    def forward(self, image: Array, nudged: tuple[str, tuple[int, ...]] | None = None) -> Run:
        """Run on a normalised image [3, h, w]; `nudged` adds i STEP to one number: "block:name" and its index."""
        run, w = Run(), self.weights

        def keep(block: int, name: str, value: Array) -> Array:
            if nudged is not None and nudged[0] == f"{block}:{name}":
                value = value.astype(complex)
                value[nudged[1]] += 1j * STEP
            return run.keep(name, value)

        patches = self.patches(image)
        kernel = w["patch_embed.proj.weight"].reshape(len(w["patch_embed.proj.weight"]), -1)
        embedded = patches @ kernel.T + w["patch_embed.proj.bias"]
        joined = run.keep("joined", np.concatenate([w["cls_token"][0], embedded]))
        x = joined + w["pos_embed"][0]
        for i in range(self.depth):
            p = f"blocks.{i}."
            keep(i, "entered", x)
            normed = keep(i, "normed1", self.norm(x, p + "norm1"))
            qkv = normed @ w[p + "attn.qkv.weight"].T + w[p + "attn.qkv.bias"]
            q, k, v = (part.reshape(len(x), self.heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2])
            exponentials = np.exp(scores)
            A = keep(i, "attention", exponentials / exponentials.sum(2, keepdims=True))
            for name, value in (("q", q), ("k", k), ("v", v)):
                keep(i, name, value)
            mixed = keep(i, "mixed", (A @ v).transpose(1, 0, 2).reshape(len(x), -1))
            branch = keep(i, "branch1", mixed @ w[p + "attn.proj.weight"].T + w[p + "attn.proj.bias"])
            x = keep(i, "middle", x + branch)
            normed = keep(i, "normed2", self.norm(x, p + "norm2"))
            hidden = normed @ w[p + "mlp.fc1.weight"].T + w[p + "mlp.fc1.bias"]
            hidden = keep(i, "hidden", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)
            branch = keep(i, "branch2", hidden @ w[p + "mlp.fc2.weight"].T + w[p + "mlp.fc2.bias"])
            x = x + branch
        read = run.keep("read", self.norm(x, "norm")[0])
        run.logits = read @ w["head.weight"].T + w["head.bias"]
        return run

    def patches(self, image: Array) -> Array:
        """[number of patches, 3 patch patch], row by row."""
        r, (_, h, w) = self.patch, image.shape
        corners = [(top, left) for top in range(0, h, r) for left in range(0, w, r)]
        return np.stack([image[:, top : top + r, left : left + r].reshape(-1) for top, left in corners])

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(1, keepdims=True) + 1e-6)
        return centred / scale * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def derivative(self, image: Array, index: int, block: int, name: str) -> Array:
        """d logit[index] / d (one of a block's tensors), number by number."""
        like = self.forward(image).values[name][block]
        result = np.zeros(like.shape)
        for place in np.ndindex(*like.shape):
            result[place] = self.forward(image, (f"{block}:{name}", place)).logits[index].imag / STEP
        return result

    def relevance(self, image: Array, index: int) -> tuple[list[Array], Array, list[float]]:
        """Relevance of each block's attention, of the pixels [3, h, w], and the totals met on the way."""
        run, w = self.forward(image), self.weights
        r_read = linear(run.values["read"][0], w["head.weight"], np.eye(len(run.logits))[index])
        R = np.zeros_like(run.values["joined"][0])
        R[0] = r_read
        totals = [R.sum()]
        attention: list[Array] = []
        for i in reversed(range(self.depth)):
            p, at = (
                f"blocks.{i}.",
                {name: values[i] for name, values in run.values.items() if len(values) == self.depth},
            )
            skip, branch = add(at["middle"], at["branch2"], R)
            hidden = rows(linear, at["hidden"], w[p + "mlp.fc2.weight"], branch)
            R = skip + rows(linear, at["normed2"], w[p + "mlp.fc1.weight"], hidden)
            totals.append(R.sum())
            skip, branch = add(at["entered"], at["branch1"], R)
            mixed = rows(linear, at["mixed"], w[p + "attn.proj.weight"], branch)
            r_a, r_qkv = self.heads_relevance(at, mixed)
            attention.insert(0, r_a)
            R = skip + rows(linear, at["normed1"], w[p + "attn.qkv.weight"], r_qkv)
            totals.append(R.sum())
        tokens, _ = add(run.values["joined"][0], w["pos_embed"][0], R)
        return attention, self.pixels(image, tokens[1:]), totals

    def heads_relevance(self, at: Mapping[str, Array], R: Array) -> tuple[Array, Array]:
        """Through A V, softmax and Q K^T, product by product: relevance of A, and of queries, keys, values joined."""
        A, q, k, v = (at[name] for name in ("attention", "q", "k", "v"))
        r_a, r_q, r_k, r_v = (np.zeros_like(x) for x in (A, q, k, v))
        heads, n, width = q.shape
        for h in range(heads):
            for i in range(n):
                for c in range(width):
                    out = sum(A[h, i, j] * v[h, j, c] for j in range(n))
                    for j in range(n):
                        share = A[h, i, j] * v[h, j, c] / out * R[i, h * width + c] / 2
                        r_a[h, i, j] += share
                        r_v[h, j, c] += share
            for i in range(n):
                for j in range(n):
                    out = sum(q[h, i, c] * k[h, j, c] for c in range(width))
                    for c in range(width):
                        share = q[h, i, c] * k[h, j, c] / out * r_a[h, i, j] / 2
                        r_q[h, i, c] += share
                        r_k[h, j, c] += share
        joined = [x.transpose(1, 0, 2).reshape(n, -1) for x in (r_q, r_k, r_v)]
        return r_a, np.concatenate(joined, axis=1)

    def pixels(self, image: Array, R: Array) -> Array:
        """The z^B rule: each pixel's share is x w - low w+ - high w-, which is never negative."""
        kernel = self.weights["patch_embed.proj.weight"].reshape(R.shape[1], -1)
        low, high, patches = image.min(), image.max(), self.patches(image)
        shares = np.zeros_like(patches)
        for t, x in enumerate(patches):
            for j, row in enumerate(kernel):
                contributions = x * row - low * np.maximum(row, 0) - high * np.minimum(row, 0)
                shares[t] += contributions / contributions.sum() * R[t, j]
        result, r, (_, h, w) = np.zeros_like(image), self.patch, image.shape
        corners = [(top, left) for top in range(0, h, r) for left in range(0, w, r)]
        for share, (top, left) in zip(shares, corners, strict=True):
            result[:, top : top + r, left : left + r] = share.reshape(-1, r, r)
        return result

    def attribution(self, image: Array, index: int, start_layer: int) -> Array:
        """The class row of the product of I + mean over heads of (gradient x relevance)+, patches only."""
        attention, _, _ = self.relevance(image, index)
        C = np.eye(attention[0].shape[1])
        for i in range(start_layer, self.depth):
            gradient = self.derivative(image, index, i, "attention")
            C = (np.eye(len(C)) + np.maximum(gradient * attention[i], 0).mean(0)) @ C
        return C[0, 1:]


def linear(x: Array, W: Array, R: Array) -> Array:
    """The alpha = 1 rule, output by output: products that are positive share its relevance; without any, it is lost."""
    result = np.zeros_like(x)
    for weights, relevance in zip(W, R, strict=True):
        products = np.where(x * weights > 0, x * weights, 0)
        if products.any():
            result += products / products.sum() * relevance
    return result


def rows(rule: Callable[[Array, Array, Array], Array], x: Array, W: Array, R: Array) -> Array:
    return np.stack([rule(x[i], W, R[i]) for i in range(len(x))])


def add(a: Array, b: Array, R: Array) -> tuple[Array, Array]:
    """Shares in a + b, number by number; then each side is scaled so that it holds its share of |sum|."""
    r_a, r_b = a / (a + b) * R, b / (a + b) * R
    share = abs(r_a.sum()) / (abs(r_a.sum()) + abs(r_b.sum()))
    return r_a / r_a.sum() * share * R.sum(), r_b / r_b.sum() * (1 - share) * R.sum()
