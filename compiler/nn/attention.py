"""Self-attention that single-step conversion takes, in a module that is saved whole."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from d2e.ir.errors import UsageError


class SelfAttention(nn.Module):
    """``proj(softmax(q k^T / sqrt(dim / heads)) v)`` over [n, tokens, dim], q, k and v from one Linear layer ``qkv``.

    Args:
        dim: width of a token.
        heads: divide ``dim``.
        bias: of both Linear layers.
    """

    def __init__(self, dim: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UsageError("D2E-NN-003", f"{heads} heads do not divide tokens of {dim} entries")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [n, tokens, dim] from all tokens of the same sample."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in self.qkv(tokens).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.proj(mixed.transpose(-3, -2).flatten(-2))
        return result

    def extra_repr(self) -> str:
        """The options, for printing."""
        return f"heads={self.heads}"
