# %% [markdown]
# A network of your own and its nullspace: `python examples/library.py`, or cell by cell in an editor.
#
# A small vision transformer is wrapped, its nullspace found and proved, an image with noise from it rounded to 8 bits,
# and noise on its tokens learned and measured. It takes some seconds, is offline and writes no file.

# %% A network from nn.Module: patches of 16 x 16 pixels become 64 numbers each
import torch
from torch import nn

import nullspace_cli as vn
from nullspace_cli.demo.drawing import draw


class Transformer(nn.Module):
    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).mT + self.position
        return self.head(self.blocks(tokens).mean(1))


torch.manual_seed(0)
model = vn.wrap(Transformer(), mean=[0.5] * 3, std=[0.25] * 3, input_size=(3, 64, 64), name="my transformer")
drawings = [draw("val", index, size=64)[0] for index in range(32)]
images = torch.stack([torch.from_numpy(pixels).movedim(-1, 0) for pixels in drawings]) / 255
print(f"{model.name}: {model.num_classes} classes, reads {model.transform.input_size}")

# %% Its nullspace: of 768 numbers a patch, 64 are read
nullspace = vn.find_nullspace(model)
print(nullspace)

# %% The proof: ask the network, with noise from the nullspace and with random noise of equal norm
check = vn.check_nullspace(model, nullspace, images=images[:8], rms=0.1)
assert check.passed
print(
    f"proved: null noise moves the logits by {check.null_logit_mse:.1e}, random noise by {check.random_logit_mse:.1e}"
)

# %% Rounding: the same image as 8 bits, each value by itself, and with what the network reads in mind
noise = nullspace.sample((64, 64), rms=0.1, generator=torch.Generator().manual_seed(1))
noisy = (0.15 + 0.7 * images[:1] + noise.float()).clamp(0, 1)
clean = model.predict(noisy).answer
for name, levels in (("nearest", (255 * noisy).round()), ("aware", vn.round_to_8_bits(noisy, model))):
    change = (model.predict(levels / 255).answer - clean).square().sum()
    print(f"rounded ({name}): the logits move by {float(change):.1e}")

# %% Noise on the tokens that the network does not mind, learned on the images
learned = vn.learn_noise(model, images[:16], limit=0.5, epochs=30, lr=0.02, step_images=8)
print(learned)

# %% Beside its controls, and the exact noise beside its own, on images that it was not learned on
# The network is untrained, its classes lie close together: how far the logits moved says more than the class does.
evaluation = vn.evaluate_noise(model, images[16:], [learned, noise], controls=("shuffle",), trials=5)
print("noise    control  same class  logits moved (mse)")
for result in evaluation.results():
    kind, control = result["kind"], result["control"]
    print(f"{kind:8} {control:8} {result['match_percent']:9.1f}%  {result['logit_mse']:.1e}")
