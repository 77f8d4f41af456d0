// The pointwise half of one time step: what is left to do after cuBLAS has multiplied W_hh by h.
//
// One launch per step and direction, one thread per hidden unit and row of the batch. Arrays are
// row-major: states (T+1, B, H), gates (T, B, GATES H), slopes (T, B, SLOPES H). A row that has
// ended keeps its state, and lets its gradient by.

constexpr int THREADS = 256;

// gates[t] holds W_ih x_t; for RNN and LSTM also W_hh h, which for the GRU is in `recurrent`
// (B, 3 H). Biases (GATES H) may be null. Writes the activated gates, q, and the state after t.
extern "C" __global__ void __launch_bounds__(THREADS) step_forward(
    real* gates, const real* recurrent, const real* b_ih, const real* b_hh, real* h, real* c,
    real* q, const bool* ended, int t, int B, int H, int relu) {
    size_t place = size_t(blockIdx.x) * THREADS + threadIdx.x, size = size_t(B) * H;
    if (place >= size) return;
    int b = int(place / H), unit = int(place % H);
    size_t before = (size_t(t) * B + b) * H + unit, after = before + size;
    real* z_at = gates + (size_t(t) * B + b) * GATES * H + unit;
    real z[GATES], u[GATES], pre_q = real(0);
    for (int k = 0; k < GATES; k++) {
        z[k] = z_at[k * H] + (b_ih ? b_ih[k * H + unit] : real(0));
        u[k] = (recurrent ? recurrent[(size_t(b) * GATES + k) * H + unit] : real(0)) +
               (b_hh ? b_hh[k * H + unit] : real(0));
    }
    State old = {h[before], c ? c[before] : real(0)};
    State now = cell_forward(z, u, old, &pre_q, relu);
    if (ended && ended[size_t(t) * B + b]) now = old;
    for (int k = 0; k < GATES; k++) z_at[k * H] = z[k];
    if (q) q[before] = pre_q;
    h[after] = now.h;
    if (c) c[after] = now.c;
}

// `received` (B, H) is what step t + 1 has sent through W_hh, null after the last step; `carry`
// (2, B, H) what came by no weight, of h and of c. With t = -1 there is no step left: carry becomes
// the gradient of the first state.
extern "C" __global__ void __launch_bounds__(THREADS) step_backward(
    const real* gates, const real* h, const real* c, const real* q, const bool* ended,
    const real* dh, const real* dc, const real* received, real* carry, real* slopes, int t, int B,
    int H, int relu) {
    size_t place = size_t(blockIdx.x) * THREADS + threadIdx.x, size = size_t(B) * H;
    if (place >= size) return;
    int b = int(place / H), unit = int(place % H);
    size_t after = (size_t(t + 1) * B + b) * H + unit, before = after - size;
    // To a row that had ended nothing was sent: 0 times an infinite weight would be NaN.
    bool sent = received && !(ended && ended[size_t(t + 1) * B + b]);
    State d = {dh[after] + carry[place] + (sent ? received[place] : real(0)),
               c ? dc[after] + carry[size + place] : real(0)};
    if (t >= 0) {
        const real* z_at = gates + (size_t(t) * B + b) * GATES * H + unit;
        real z[GATES], slope[SLOPES];
        for (int k = 0; k < GATES; k++) z[k] = z_at[k * H];
        State old = {h[before], c ? c[before] : real(0)};
        State now = {h[after], c ? c[after] : real(0)};
        State by = cell_backward(d, z, q ? q[before] : real(0), old, now, slope, relu);
        bool over = ended && ended[size_t(t) * B + b];
        for (int k = 0; k < SLOPES; k++)
            slopes[((size_t(t) * B + b) * SLOPES + k) * H + unit] = over ? real(0) : slope[k];
        if (!over) d = by;
    }
    carry[place] = d.h;
    if (c) carry[size + place] = d.c;
}
