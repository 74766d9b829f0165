"""Operations that do something else than they should: every implementation that is chosen may be changed."""

from core import dispatch
from core.engine import Op


def intercept(monkeypatch, forward=None, backward=None):
    """From now on operations run forward(op, *inputs, **attrs) and backward(op, saved, dy, needs_input_grad, **attrs),
    which may call those of `op`, the one that was chosen; None leaves its own in place. Operations without a gradient
    run as ever."""
    choose = dispatch.choose

    def chosen(name, inputs, attrs):
        op, why = choose(name, inputs, attrs)
        if not isinstance(op, Op):
            return op, why
        run = lambda own, other: (
            own if other is None else lambda *arguments, **options: other(op, *arguments, **options)
        )
        return op._replace(forward=run(op.forward, forward), backward=run(op.backward, backward)), why

    monkeypatch.setattr(dispatch, "choose", chosen)
