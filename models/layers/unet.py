"""A small U-Net for 28x28 images: what a diffusion model asks how to denoise (Ronneberger et al. 2015; Ho et al. 2020).

Down to 7x7 and up again, C channels at 28x28 and 2 C below; on the way up each level gets back what it was on the way
down. Every residual block is told the time and the class, by a vector that is added to each pixel's channels; at 7x7
all pixels attend to each other.

    28x28 C --------------------------- concatenate - block - norm, conv - 28x28
        \\ conv, stride 2                / transposed conv, stride 2
       14x14 2C ---------- concatenate - block
            \\              /
             7x7 2C: block, attention, block

Going up is a transposed convolution of 4x4 taps with stride 2. The usual "nearest neighbour, then a 3x3 convolution" is
one of these too, whose taps are sums of the nine: it can do less, and takes 9 products for every 4.

N batch, C channels, E = 4 C the width of the vector. # next: models/diffusion.py
"""

import core.functional as F
from core import check, nn

GROUP = 4  # channels that are normalised together
CLASSES = 10
NO_CLASS = CLASSES  # the label of an image whose class is not told


class ResBlock(nn.Module):
    """x (N, H, W, c_in), vector (N, E) -> (N, H, W, c_out): x, or a 1x1 convolution of it, and two convolutions."""

    def __init__(self, c_in, c_out, width, dropout):
        self.norm1 = nn.GroupNorm(c_in // GROUP, c_in, act="silu")
        self.conv1 = nn.Conv2d(c_in, c_out, 3, bias=False, padding=1)  # what `told` adds has a bias
        self.told = nn.Linear(width, c_out)
        self.norm2 = nn.GroupNorm(c_out // GROUP, c_out, act="silu")
        self.drop = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = None if c_in == c_out else nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x, vector):
        n = len(x)
        h = self.conv1(self.norm1(x)) + self.told(vector).reshape(n, 1, 1, -1)  # (N, H, W, c_out)
        h = self.conv2(self.drop(self.norm2(h)))
        return h + (x if self.skip is None else self.skip(x))


class Attention(nn.Module):
    """x (N, H, W, C), and what its pixels gather from each other."""

    def __init__(self, channels, heads):
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.attn = nn.MultiHeadAttention(channels, heads)

    def forward(self, x):
        tokens = self.norm(x).reshape(len(x), -1, x.shape[-1])  # (N, H W, C)
        return x + self.attn(tokens).reshape(*x.shape)


class UNet(nn.Module):
    """Noisy images (N, 28, 28, 1), times (N,) and labels (N,) from 0 to NO_CLASS -> (N, 28, 28, 1)."""

    def __init__(self, channels, heads, dropout):
        if channels % GROUP:
            check.fail("UNet", "channels", channels, f"a multiple of {GROUP}")
        c, width = channels, 4 * channels
        self.channels = c
        block = lambda c_in, c_out: ResBlock(c_in, c_out, width, dropout)
        self.time1, self.time2 = nn.Linear(c, width), nn.Linear(width, width)
        self.label = nn.Embedding(CLASSES + 1, width)
        self.conv_in = nn.Conv2d(1, c, 3, padding=1)
        self.block28, self.down14 = block(c, c), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.block14, self.down7 = block(2 * c, 2 * c), nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1)
        self.block7, self.attention, self.block7_up = block(2 * c, 2 * c), Attention(2 * c, heads), block(2 * c, 2 * c)
        self.up14, self.block14_up = nn.ConvTranspose2d(2 * c, 2 * c, 4, stride=2, padding=1), block(4 * c, 2 * c)
        self.up28, self.block28_up = nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1), block(2 * c, c)
        self.norm_out = nn.GroupNorm(c // GROUP, c, act="silu")
        self.conv_out = nn.Conv2d(c, 1, 3, padding=1)

    def vector(self, t, labels):
        """Times and labels (N,) -> (N, E): what every block is told."""
        time = self.time2(F.silu(self.time1(F.timestep_embedding(t, self.channels))))  # (N, E)
        return F.silu(time + self.label(labels))

    def forward(self, x, t, labels):
        v = self.vector(t, labels)
        x28 = self.block28(self.conv_in(x), v)  # (N, 28, 28, C)
        x14 = self.block14(self.down14(x28), v)  # (N, 14, 14, 2 C)
        x = self.block7(self.down7(x14), v)  # (N, 7, 7, 2 C)
        x = self.block7_up(self.attention(x), v)
        x = self.block14_up(F.concatenate([self.up14(x), x14], -1), v)  # (N, 14, 14, 2 C)
        x = self.block28_up(F.concatenate([self.up28(x), x28], -1), v)  # (N, 28, 28, C)
        return self.conv_out(self.norm_out(x))  # (N, 28, 28, 1)
