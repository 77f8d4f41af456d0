"""Mistakes in optimizers, schedules, clipping and truncated back-propagation through time."""

from functools import partial

from tests.mutation.mutant import Mutant
from tests.mutation.ops import GAPS

OPTIMIZERS, BASE = "optim/optimizers.py", "optim/base.py"
optim = partial(Mutant, "optim", tests="tests/test_optim.py")
clip = partial(Mutant, "clip", tests="tests/test_clip.py tests/test_backends.py")
tbptt = partial(Mutant, "tbptt", tests="tests/test_tbptt.py")

OPTIM = [
    optim("sgd-first-velocity", OPTIMIZERS, 'state["momentum_buffer"] = g.copy()',
          'state["momentum_buffer"] = g', mistake="missing copy: the velocity is the .grad itself"),
    optim("sgd-dampening", OPTIMIZERS, 'xp.multiply(g, 1 - group["dampening"], out=s)',
          'xp.multiply(g, group["dampening"], out=s)', mistake="d for 1 - d"),
    optim("sgd-nesterov", OPTIMIZERS, "            s += g\n            s *= float",
          "            s *= float", mistake="dropped term: plain momentum, one step late"),
    optim("decay-sign", BASE, "        total += g\n",
          "        backends.namespace(x).subtract(g, total, out=total)\n",
          mistake="flipped sign: weights grow"),
    optim("adamw-coupled", OPTIMIZERS, "if self.decoupled:", "if not self.decoupled:",
          mistake="the decay of Adam and AdamW swapped"),
    optim("adamw-rate", OPTIMIZERS, 'x *= 1 - lr * group["weight_decay"]',
          'x *= 1 - group["weight_decay"]', mistake="dropped factor lr"),
    optim("adam-time", OPTIMIZERS, "c = math.sqrt(1 - beta2**t)",
          "c = math.sqrt(1 - beta2 ** (t + 1))", mistake="off by one in the bias correction"),
    optim("adam-no-correction", OPTIMIZERS, "s *= lr * c / (1 - beta1**t)", "s *= lr * c",
          mistake="no bias correction of the mean"),
    optim("adam-eps", OPTIMIZERS, 's += c * group["eps"]', 's += group["eps"]',
          mistake="eps before the bias correction instead of after it"),
    optim("adam-square", OPTIMIZERS, "    s *= g\n    average *= keep", "    average *= keep",
          mistake="the gradient, not its square, averaged"),
    optim("average-weights", OPTIMIZERS, "        s *= 1 - keep\n        average += s",
          "        s *= keep\n        average += s", mistake="beta and 1 - beta swapped"),
    optim("rmsprop-eps", OPTIMIZERS,
          '            xp.sqrt(square, out=s)\n        s += group["eps"]',
          '            xp.sqrt(square + group["eps"], out=s)', mistake="eps inside the root"),
    optim("rmsprop-centered", OPTIMIZERS, "xp.subtract(square, s, out=s)",
          "xp.add(square, s, out=s)", mistake="flipped sign of the squared mean"),
    optim("adagrad-time", OPTIMIZERS, '(1 + (t - 1) * group["lr_decay"])',
          '(1 + t * group["lr_decay"])', mistake="off by one in time"),
    optim("adagrad-forgets", OPTIMIZERS, "total += xp.multiply(g, g, out=s)",
          "total[...] = xp.multiply(g, g, out=s)", mistake="= for +="),
    optim("zero-grad", BASE, "                parameter.grad = None\n",
          "                parameter.grad = parameter.grad\n", mistake="forgets nothing"),
]  # fmt: skip

SCHEDULES = [
    optim("step-lr-time", "optim/schedules.py", "self.gamma ** (t // self.step_size)",
          "self.gamma ** ((t + 1) // self.step_size)", mistake="off by one in time"),
    optim("cosine-period", "optim/schedules.py", "math.pi * t / self.T_max",
          "math.pi * t / (self.T_max + 1)", mistake="off by one in the period"),
    optim("linear-end", "optim/schedules.py", "done = min(t, self.total_iters) / self.total_iters",
          "done = t / self.total_iters", mistake="the ramp goes on after its end"),
    optim("schedule-order", "optim/schedules.py",
          "        self.last_epoch += 1\n        self._set(self.rates())",
          "        self._set(self.rates())\n        self.last_epoch += 1",
          mistake="the rate set before the step is counted"),
    optim("plateau-patience", "optim/plateau.py", "if self.num_bad_epochs > self.patience:",
          "if self.num_bad_epochs >= self.patience:", mistake="one step too impatient"),
]  # fmt: skip

CLIP = [
    clip("norm-by-sum", "backends/numpy_backend.py", "square = float(np.dot(flat, flat))",
         "square = float(np.abs(flat).sum())", mistake="the sum for the sum of squares"),
    clip("norm-no-root", "backends/numpy_backend.py", "np.asarray(math.sqrt(total))",
         "np.asarray(total)", mistake="the square root forgotten"),
    clip("norm-last-only", "backends/numpy_backend.py", "total += square", "total = square",
         mistake="= for +=: the norm of the last parameter"),
    clip("norm-tiny", "backends/numpy_backend.py", "if not 1e-30 < square < 1e37:",
         "if not square < 1e37:", tests=GAPS, mistake="squares lost below float32's range"),
    clip("plain-norm-float32", "backends/base.py", "xp.sum(xp.square(array, dtype=np.float64))",
         "xp.sum(xp.square(array))", mistake="squares that overflow float32"),
    clip("clip-tied-twice", "nn/utils.py",
         "return [(label, leaf) for leaf, label in found.items()]",
         "return [(found[leaf], leaf) for item in items for leaf in "
         "[item[1] if isinstance(item, tuple) else item] if leaf in found]",
         mistake="a tied parameter counted and scaled twice"),
    clip("scale-inverted", "nn/utils.py", "1.0, max_norm / (norm + 1e-6))",
         "1.0, (norm + 1e-6) / max_norm)",
         mistake="longer instead of shorter"),
    clip("scale-without-eps", "nn/utils.py", "1.0, max_norm / (norm + 1e-6))",
         "1.0, max_norm / norm)",
         mistake="PyTorch's 1e-6 left out"),
    clip("scale-always", "nn/utils.py", "where(norm <= max_norm, 1.0,",
         "where(norm < 0, 1.0,", mistake="short gradients stretched to the limit"),
    clip("infinite-passes", "nn/utils.py", "if not math.isfinite(length):",
         "if math.isnan(length):", mistake="only NaN refused"),
    clip("clip-value-one-side", "nn/utils.py", "clip(g, -clip_value, clip_value, out=g)",
         "clip(g, -math.inf, clip_value, out=g)", mistake="only one side limited"),
]  # fmt: skip

TBPTT = [
    tbptt("missing-detach", "tbptt.py", "self.clip_norm, detach(carried))",
          "self.clip_norm, carried)", mistake="missing detach: the graph grows with the stream"),
    tbptt("detach-first-only", "tbptt.py", "type(state)(detach(part) for part in state)",
          "type(state)([detach(state[0]), *state[1:]])", mistake="h detached, c not"),
    tbptt("window-start", "tbptt.py", "max(0, end + self.k1 - self.k2)",
          "max(0, end + self.k1 - self.k2 - 1)",
          mistake="off by one: windows one step too long"),
    tbptt("window-short", "tbptt.py", "end = min(done + self.k1, len(xs))",
          "end = min(done + self.k1, len(xs) - 1)", mistake="off by one: the last step never seen"),
    tbptt("last-state", "tbptt.py", "next_start = end if end == len(xs) else max(",
          "next_start = max(", mistake="the last state taken where a next window would start"),
    tbptt("context-side", "tbptt.py", "out[context:] if context else out",
          "out[: len(out) - context] if context else out", mistake="the old steps in the loss"),
    tbptt("carry-cut", "tbptt.py", "self.model(x[carry:], carried)",
          "self.model(x[carry:], detach(carried))",
          mistake="a detach too many: the gradient stops inside the window"),
    tbptt("carry-end", "tbptt.py", "out, _ = self.model(x[carry:], carried)",
          "out, carried = self.model(x[carry:], carried)",
          mistake="the state of the end carried to where the next window starts"),
    tbptt("state-forgotten", "tbptt.py", "start, state = next_start, report.state",
          "start, state = next_start, None", mistake="every window begins from zeros"),
    tbptt("no-zero-grad", "tbptt.py", "        self.optimizer.zero_grad()\n", "",
          mistake="gradients of all windows add up"),
    tbptt("clip-too-late", "tbptt.py", "        loss.backward()\n",
          "        loss.backward()\n        self.optimizer.step()\n"
          "        self.optimizer.zero_grad()\n",
          mistake="the step taken before clipping"),
    tbptt("graph-in-report", "tbptt.py", "Report(loss.detach(),", "Report(loss,",
          tests=GAPS, mistake="missing detach: every kept report keeps its graph"),
]  # fmt: skip

MUTANTS = [*OPTIM, *SCHEDULES, *CLIP, *TBPTT]
