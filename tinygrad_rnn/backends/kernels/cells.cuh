// One step of a cell for one row of the batch and one hidden unit, forward and back: what stands in
// `step` of ops/rnn.py, ops/lstm.py and ops/gru.py, after the matrix products.
//
// CELL says which: 1 RNN, 4 LSTM, 3 GRU (how many gates, and so how many blocks W_hh has). A gate's
// pre-activation is z + u: z comes from the input, u from the state before, biases included. Blocks
// stand in the order of the Python files: LSTM i, f, g, o; GRU r, z, n.
//
// The gradients of pre-activations are `SLOPES` numbers: RNN 1, LSTM 4, and for the GRU n, r, z, q,
// of which the first three met the input and the last three the state (ops/gru.py says why).

#ifndef CELL
#define CELL 4
#endif
constexpr int GATES = CELL;
constexpr int SLOPES = CELL == 3 ? 4 : CELL;
constexpr int MET_STATE = SLOPES - GATES;  // from this number on, slopes met the state

struct State {
    real h, c;  // c is the LSTM's only
};

// From z and u (GATES each) to the new state. z is overwritten with the activated gates, and q with
// the GRU's U_n h + d_n.
__device__ __forceinline__ State cell_forward(
    real* z, const real* u, State before, real* q, int relu) {
    State now;
#if CELL == 1
    z[0] += u[0];
    now.h = relu ? (z[0] > real(0) ? z[0] : (z[0] == z[0] ? real(0) : z[0])) : tanh_of(z[0]);
    now.c = real(0);
    z[0] = now.h;
#elif CELL == 4
    z[0] = sigmoid_of(z[0] + u[0]);
    z[1] = sigmoid_of(z[1] + u[1]);
    z[2] = tanh_of(z[2] + u[2]);
    z[3] = sigmoid_of(z[3] + u[3]);
    now.c = z[1] * before.c + z[0] * z[2];
    now.h = z[3] * tanh_of(now.c);
#else
    z[0] = sigmoid_of(z[0] + u[0]);
    z[1] = sigmoid_of(z[1] + u[1]);
    *q = u[2];
    z[2] = tanh_of(z[2] + z[0] * u[2]);
    now.h = z[2] + z[1] * (before.h - z[2]);
    now.c = real(0);
#endif
    return now;
}

// From the gradient of h_t and c_t to those of the pre-activations (SLOPES numbers). Returns what
// goes to the state before straight, by no weight.
__device__ __forceinline__ State cell_backward(
    State d, const real* z, real q, State before, State now, real* slopes, int relu) {
    State by;
#if CELL == 1
    slopes[0] = relu ? (now.h > real(0) ? d.h : real(0)) : d.h * (real(1) - now.h * now.h);
    by.h = by.c = real(0);
#elif CELL == 4
    real i = z[0], f = z[1], g = z[2], o = z[3], tanh_c = tanh_of(now.c);
    real dc = d.c + d.h * o * (real(1) - tanh_c * tanh_c);
    slopes[0] = dc * g * i * (real(1) - i);
    slopes[1] = dc * before.c * f * (real(1) - f);
    slopes[2] = dc * i * (real(1) - g * g);
    slopes[3] = d.h * tanh_c * o * (real(1) - o);
    by.h = real(0);
    by.c = dc * f;
#else
    real r = z[0], update = z[1], n = z[2];
    real dn = d.h * (real(1) - update) * (real(1) - n * n);
    slopes[0] = dn;
    slopes[1] = dn * q * r * (real(1) - r);
    slopes[2] = d.h * (before.h - n) * update * (real(1) - update);
    slopes[3] = dn * r;
    by.h = d.h * update;
    by.c = real(0);
#endif
    return by;
}
