"""The optimizers: PyTorch's formulas and defaults, each in one short method.

Every formula works in place on the arrays of one parameter: ``x`` its values, ``g`` the gradient,
``s`` a scratch array. That makes them lines of ``*=`` and ``+=`` where a paper has one equation, so
the equation stands above them. Factors are Python floats: they are computed in float64, and
float32 arrays stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.optim.base import Group, Item, Optimizer, Parameters
from tinygrad_rnn.optim.options import DECAY, FINITE, FLAG, NON_NEGATIVE, UNIT, Need


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever 2013).

        b = momentum * b + (1 - dampening) * g            b = g at the first step
        x = x - lr * b                                    Nesterov: x - lr * (g + momentum * b)

    The learning rate stands outside the average, as in PyTorch: after a change of ``lr`` the whole
    velocity changes with it.

    Args:
        params: Tensors, or groups of them; see `Optimizer`, also for the errors.
        lr: the learning rate.
        momentum: how much of the running average stays; 0 for none, and then no memory is used.
        dampening: how much less of a new gradient goes into the average.
        weight_decay: adds ``weight_decay * x`` to the gradient.
        nesterov: look ahead along the average; needs momentum and no dampening.
    """

    needs: ClassVar[dict[str, Need]] = {
        "lr": NON_NEGATIVE,
        "momentum": NON_NEGATIVE,
        "dampening": FINITE,
        "weight_decay": NON_NEGATIVE,
        "nesterov": FLAG,
    }
    slots: ClassVar[dict[str, str | None]] = {"momentum_buffer": "momentum"}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def problems(self, options: Group) -> list[str]:
        """As in `Optimizer`; Nesterov's form is only defined for the plain average."""
        found = super().problems(options)
        plain_average = options.get("momentum") and not options.get("dampening")
        if options.get("nesterov") and not plain_average:
            found.append("nesterov needs momentum > 0 and dampening = 0")
        return found

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """One step by the formula above, in place; see `Optimizer.update`."""
        xp, s, momentum = namespace(x), self.scratch(g), group["momentum"]
        g = self.decayed(x, g, group["weight_decay"])
        if momentum and "momentum_buffer" not in state:
            state["momentum_buffer"] = g.copy()
        elif momentum:
            average = state["momentum_buffer"]
            average *= momentum
            average += xp.multiply(g, 1 - group["dampening"], out=s)
        if group["nesterov"]:
            xp.multiply(state["momentum_buffer"], momentum, out=s)
            s += g
            s *= float(group["lr"])
        else:
            xp.multiply(state["momentum_buffer"] if momentum else g, float(group["lr"]), out=s)
        x -= s


class RMSprop(Optimizer):
    """Divide by a running root mean square of the gradient (Tieleman & Hinton 2012, lecture 6.5).

        v = alpha * v + (1 - alpha) * g²
        x = x - lr * g / (sqrt(v) + eps)                  centered: sqrt(v - mean(g)²)

    With momentum the quotient is added up in ``b = momentum * b + g / (...)``, and x follows b.
    Centering divides by the gradient's standard deviation instead (Graves 2013, arXiv:1308.0850,
    equations 38-45, made for LSTMs that write).

    Args:
        params: Tensors, or groups of them; see `Optimizer`, also for the errors.
        lr: the learning rate.
        alpha: how much of the average stays at each step.
        eps: keeps the quotient finite.
        weight_decay: adds ``weight_decay * x`` to the gradient.
        momentum: how much of the running sum of steps stays.
        centered: subtract the square of the gradient's mean.
    """

    needs: ClassVar[dict[str, Need]] = {
        "lr": NON_NEGATIVE,
        "alpha": UNIT,
        "eps": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "momentum": NON_NEGATIVE,
        "centered": FLAG,
    }
    slots: ClassVar[dict[str, str | None]] = {
        "step": None,
        "square_avg": None,
        "momentum_buffer": "momentum",
        "grad_avg": "centered",
    }

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """One step by the formula above, in place; see `Optimizer.update`."""
        xp, s, alpha = namespace(x), self.scratch(g), group["alpha"]
        state["step"] = state.get("step", 0) + 1  # no formula needs it; PyTorch's files have it
        g = self.decayed(x, g, group["weight_decay"])
        square = self.slot(state, "square_avg", g)
        _average_square(xp, square, g, alpha, s)
        if group["centered"]:
            mean = self.slot(state, "grad_avg", g)
            _average(xp, mean, g, alpha, s)
            xp.multiply(mean, mean, out=s)
            xp.subtract(square, s, out=s)
            xp.maximum(s, 0, out=s)  # a variance; rounding can leave it just below 0
            xp.sqrt(s, out=s)
        else:
            xp.sqrt(square, out=s)
        s += group["eps"]
        xp.divide(g, s, out=s)
        if group["momentum"]:
            total = self.slot(state, "momentum_buffer", g)
            total *= group["momentum"]
            total += s
            xp.multiply(total, float(group["lr"]), out=s)
        else:
            s *= float(group["lr"])
        x -= s


class Adagrad(Optimizer):
    """Divide by the root of the sum of all squared gradients (Duchi, Hazan & Singer 2011).

        v = v + g²
        x = x - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(v) + eps)       t = 1 at the first step

    Args:
        params: Tensors, or groups of them; see `Optimizer`, also for the errors.
        lr: the learning rate.
        lr_decay: how fast it falls with the number of steps, on top of what v does.
        weight_decay: adds ``weight_decay * x`` to the gradient.
        initial_accumulator_value: what v starts from; damps the first steps.
        eps: keeps the quotient finite.
    """

    needs: ClassVar[dict[str, Need]] = {
        "lr": NON_NEGATIVE,
        "lr_decay": NON_NEGATIVE,
        "eps": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
        "initial_accumulator_value": NON_NEGATIVE,
    }
    slots: ClassVar[dict[str, str | None]] = {"step": None, "sum": None}

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
        )

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """One step by the formula above, in place; see `Optimizer.update`."""
        xp, s = namespace(x), self.scratch(g)
        t = state["step"] = state.get("step", 0) + 1
        g = self.decayed(x, g, group["weight_decay"])
        total = self.slot(state, "sum", g, start=group["initial_accumulator_value"])
        total += xp.multiply(g, g, out=s)
        xp.sqrt(total, out=s)
        s += group["eps"]
        xp.divide(g, s, out=s)
        s *= float(group["lr"]) / (1 + (t - 1) * group["lr_decay"])
        x -= s


class Adam(Optimizer):
    """Adaptive moments (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).

        m = β1 * m + (1 - β1) * g               m̂ = m / (1 - β1^t)
        v = β2 * v + (1 - β2) * g²              v̂ = v / (1 - β2^t)
        x = x - lr * m̂ / (sqrt(v̂) + eps)

    m and v start at 0, which the divisions make up for: without them the first step would be
    about three times too long.

    Args:
        params: Tensors, or groups of them; see `Optimizer`, also for the errors.
        lr: the learning rate; also about the length of a step in each coordinate.
        betas: β1 and β2, how much of m and of v stays at each step.
        eps: keeps the quotient finite; a gradient that was always 0 moves nothing.
        weight_decay: adds ``weight_decay * x`` to the gradient; see `AdamW` for the better way.
    """

    needs: ClassVar[dict[str, Need]] = {
        "lr": NON_NEGATIVE,
        "betas": Need(
            "two numbers >= 0 and < 1",
            lambda v: isinstance(v, list | tuple) and len(v) == 2 and all(map(DECAY.accepts, v)),
        ),
        "eps": NON_NEGATIVE,
        "weight_decay": NON_NEGATIVE,
    }
    slots: ClassVar[dict[str, str | None]] = {"step": None, "exp_avg": None, "exp_avg_sq": None}
    decoupled = False  # whether weights decay by themselves instead of through the gradient

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """One step by the formula above, in place; see `Optimizer.update`."""
        xp, s = namespace(x), self.scratch(g)
        t = state["step"] = state.get("step", 0) + 1
        factors = self.factors(t, group)
        if self.decoupled:
            x *= factors["shrink"]
        else:
            g = self.decayed(x, g, group["weight_decay"])
        mean = self.slot(state, "exp_avg", g)
        square = self.slot(state, "exp_avg_sq", g)
        beta1, beta2 = group["betas"]
        _average(xp, mean, g, beta1, s)
        _average_square(xp, square, g, beta2, s)
        xp.sqrt(square, out=s)
        s += factors["eps"]
        xp.divide(mean, s, out=s)
        s *= factors["step_size"]
        x -= s

    def factors(self, t: int, group: Group) -> dict[str, Any]:
        """The numbers of step t, computed in float64, as `Backend.adam_step` takes them.

        Kingma & Ba's own order (end of section 2): with c = sqrt(1 - β2^t) the last equation is
        x - (lr * c / (1 - β1^t)) * m / (sqrt(v) + c * eps), two passes over the arrays fewer.
        """
        lr, decay, (beta1, beta2) = float(group["lr"]), group["weight_decay"], group["betas"]
        c = math.sqrt(1 - beta2**t)
        return {
            "betas": (beta1, beta2),
            "step_size": lr * c / (1 - beta1**t),
            "eps": c * group["eps"],
            "weight_decay": 0 if self.decoupled else decay,
            "shrink": 1 - lr * decay if self.decoupled else 1,
        }

    def update_all(self, items: Iterable[Item], group: Group) -> None:
        """As in `Optimizer`; at once where the backend can, those that are at the same step."""
        together: dict[Any, list[tuple[Array, Array, Array, Array]]] = {}
        ours = type(self).update is Adam.update  # and not a subclass's formula
        for x, g, state in items:
            backend = backends.of(x)
            if not (ours and backend.fused_updates and x.dtype == g.dtype):
                self.update(x, g, state, group)
                continue
            t = state["step"] = state.get("step", 0) + 1
            m, v = self.slot(state, "exp_avg", g), self.slot(state, "exp_avg_sq", g)
            where = (t, backend.device_of(x), x.dtype)
            together.setdefault(where, []).append((x, g, m, v))
        for (t, *_), parameters in together.items():
            backends.of(parameters[0][0]).adam_step(parameters, **self.factors(t, group))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    The weights shrink by ``x = x * (1 - lr * weight_decay)`` before each step of `Adam`. Through
    the gradient, as in `Adam`, weights with large gradients would decay least.

    Args: as for `Adam`, with a decay by default.
    """

    decoupled = True

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


# ---- running averages: average = keep * average + (1 - keep) * new, in place ----


def _average(xp: Any, average: Array, g: Array, keep: float, s: Array) -> None:
    # Both forms are exact when g equals the average. Each goes the shorter way, from the average
    # or back from g: with keep = 0 the first would lose a small g beside a large average.
    xp.subtract(g, average, out=s)
    if keep > 0.5:
        s *= 1 - keep
        average += s
    else:
        s *= keep
        xp.subtract(g, s, out=average)


def _average_square(xp: Any, average: Array, g: Array, keep: float, s: Array) -> None:
    xp.multiply(g, 1 - keep, out=s)
    s *= g
    average *= keep
    average += s
