/**
 * The ops in float64, in the plainest form of their formulas, which the kernels are compared with. Written from the
 * definitions, taking only the shapes from the kernels (legend in src/device/device.ts), and element by element, so that parts
 * of a large result can be computed alone.
 */
import { memo, type Values } from "./case.ts";
import type { Sum } from "./tolerance.ts";

/** Σ a(i) · b(i), starting from `start`; the sum of the magnitudes bounds the effect of rounding. */
export function sumOfProducts(count: number, a: Values, b: Values, start = 0): Sum {
  let [value, magnitude, squares] = [start, Math.abs(start), 0];
  for (let i = 0; i < count; i++) {
    const term = a(i) * b(i);
    value += term;
    magnitude += Math.abs(term);
    squares += term * term;
  }
  return { value, magnitude, squares };
}

/** `times` the sum, starting from `start`. */
export function grown(start: number, { value, magnitude, squares }: Sum, times = 1): Sum {
  return {
    value: start + times * value,
    magnitude: Math.abs(start) + times * magnitude,
    squares: times * times * squares,
  };
}

/** y (M, N) = x (M, K) · w (N, K)ᵀ */
export function matmul(x: Values, w: Values, N: number, K: number) {
  return (i: number): Sum => {
    const [m, n] = [Math.floor(i / N), i % N];
    return sumOfProducts(
      K,
      (k) => x(m * K + k),
      (k) => w(n * K + k),
    );
  };
}

/** dx (M, K) = dy (M, N) · w (N, K) */
export function matmulInputGradient(dy: Values, w: Values, N: number, K: number) {
  return (i: number): Sum => {
    const [m, k] = [Math.floor(i / K), i % K];
    return sumOfProducts(
      N,
      (n) => dy(m * N + n),
      (n) => w(n * K + k),
    );
  };
}

/** dw (N, K) = dy (M, N)ᵀ · x (M, K) */
export function matmulWeightGradient(dy: Values, x: Values, M: number, N: number, K: number) {
  return (i: number): Sum => {
    const [n, k] = [Math.floor(i / K), i % K];
    return sumOfProducts(
      M,
      (m) => dy(m * N + n),
      (m) => x(m * K + k),
    );
  };
}

export function dot(count: number, a: Values, b: Values): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += a(i) * b(i);
  return sum;
}

/** y = x / √(mean x² + ε) · weight over rows of D; rstd per row. */
export function rmsnorm(x: Values, weight: Values, D: number, epsilon: number): { y: Values; rstd: Values } {
  const rstd = memo((r) => {
    const row: Values = (d) => x(r * D + d);
    return 1 / Math.sqrt(dot(D, row, row) / D + epsilon);
  });
  return { y: (i) => x(i) * rstd(Math.floor(i / D)) * weight(i % D), rstd };
}

/** ∂y_j/∂x_i = rstd · weight_j · ([i = j] − x_i x_j rstd² / D), summed against dy; dweight over all `rows`. */
export function rmsnormGradient(dy: Values, x: Values, weight: Values, rstd: Values, rows: number, D: number) {
  const projection = memo((r) =>
    dot(
      D,
      (d) => dy(r * D + d) * weight(d),
      (d) => x(r * D + d),
    ),
  );
  return {
    dx(i: number): number {
      const [r, d] = [Math.floor(i / D), i % D];
      const scale = rstd(r);
      return scale * (dy(i) * weight(d) - (x(i) * projection(r) * scale * scale) / D);
    },
    dweight: (d: number): Sum =>
      sumOfProducts(
        rows,
        (r) => dy(r * D + d) * rstd(r),
        (r) => x(r * D + d),
      ),
  };
}

/** Elements d and d + Dh/2 of every head, rotated by the angle of its token's position, or rotated back. */
export function rope(
  x: Values,
  { cos, sin, positions }: { readonly cos: Values; readonly sin: Values; readonly positions: Values },
  width: number,
  Dh: number,
  back = false,
): Values {
  const half = Dh / 2;
  return (i) => {
    const d = (i % width) % Dh;
    const angle = positions(Math.floor(i / width)) * half + (d % half);
    const [c, s] = [cos(angle), back ? -sin(angle) : sin(angle)];
    return d < half ? x(i) * c - x(i + half) * s : x(i) * c + x(i - half) * s;
  };
}

function silu(g: number): number {
  return g / (1 + Math.exp(-g));
}

/** ½ g (1 + tanh(√(2/π) (g + 0.044715 g³))), the approximation of Hendrycks & Gimpel 2016. */
function gelu(g: number): number {
  return 0.5 * g * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3)));
}

function siluSlope(g: number): number {
  const s = 1 / (1 + Math.exp(-g));
  return s + g * s * (1 - s);
}

function geluSlope(g: number): number {
  const z = Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3);
  const slope = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * g * g);
  return 0.5 * (1 + Math.tanh(z)) + (0.5 * g * slope) / Math.cosh(z) ** 2;
}

/** y (T, F) = act(gate) · up, with x (T, 2F) = gate beside up. */
export function glu(x: Values, F: number, useGelu: boolean): Values {
  const act = useGelu ? gelu : silu;
  return (i) => {
    const gate = Math.floor(i / F) * 2 * F + (i % F);
    return act(x(gate)) * x(gate + F);
  };
}

/** dx (T, 2F) */
export function gluGradient(dy: Values, x: Values, F: number, useGelu: boolean): Values {
  const [act, slope] = useGelu ? [gelu, geluSlope] : [silu, siluSlope];
  return (i) => {
    const [t, f] = [Math.floor(i / (2 * F)), i % (2 * F)];
    if (f < F) return dy(t * F + f) * x(i + F) * slope(x(i));
    return dy(t * F + f - F) * act(x(i - F));
  };
}

export interface SoftmaxRow {
  readonly lse: number;
  readonly entropy: number;
  readonly logp: Float64Array;
}

/** log softmax(logits / temperature) of one row, its log-sum-exp and its entropy in nats. */
export function logSoftmax(logits: Float64Array, temperature: number): SoftmaxRow {
  const z = logits.map((x) => x / temperature);
  const top = z.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const lse = top + Math.log(z.reduce((sum, x) => sum + Math.exp(x - top), 0));
  const logp = z.map((x) => x - lse);
  const entropy = logp.reduce((sum, l) => sum - (l === Number.NEGATIVE_INFINITY ? 0 : Math.exp(l) * l), 0);
  return { lse, entropy, logp };
}
