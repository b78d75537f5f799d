/**
 * The ops once more in float64, in the plainest form of their formulas: what the kernels are compared with. Written
 * from the definitions, with nothing from the kernels but the shapes (legend in src/device/device.ts).
 */

/** A sum of products, and the sum of their magnitudes, which bounds what rounding can do to it. */
export interface Sums {
  readonly value: Float64Array;
  readonly magnitude: Float64Array;
}

type Matrix = Float64Array;

/** c (rows, columns) = Σ_k a[row · ar + k · ak] · b[column · bc + k · bk] */
function product(
  rows: number,
  columns: number,
  depth: number,
  a: Matrix,
  [ar, ak]: readonly [number, number],
  b: Matrix,
  [bc, bk]: readonly [number, number],
): Sums {
  const value = new Float64Array(rows * columns);
  const magnitude = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      let [sum, size] = [0, 0];
      for (let k = 0; k < depth; k++) {
        const term = a[r * ar + k * ak]! * b[c * bc + k * bk]!;
        sum += term;
        size += Math.abs(term);
      }
      value[r * columns + c] = sum;
      magnitude[r * columns + c] = size;
    }
  return { value, magnitude };
}

/** y (M, N) = x (M, K) · w (N, K)ᵀ */
export function matmul(x: Matrix, w: Matrix, M: number, N: number, K: number): Sums {
  return product(M, N, K, x, [K, 1], w, [K, 1]);
}

/** dx (M, K) = dy (M, N) · w (N, K) */
export function matmulInputGradient(dy: Matrix, w: Matrix, M: number, N: number, K: number): Sums {
  return product(M, K, N, dy, [N, 1], w, [1, K]);
}

/** dw (N, K) = dy (M, N)ᵀ · x (M, K) */
export function matmulWeightGradient(dy: Matrix, x: Matrix, M: number, N: number, K: number): Sums {
  return product(N, K, M, dy, [1, N], x, [1, K]);
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** y = x / √(mean x² + ε) · weight over rows of D; rstd per row. */
export function rmsnorm(x: Matrix, weight: Matrix, epsilon: number): { y: Matrix; rstd: Matrix } {
  const D = weight.length;
  const rows = x.length / D;
  const [y, rstd] = [new Float64Array(x.length), new Float64Array(rows)];
  for (let r = 0; r < rows; r++) {
    const row = x.subarray(r * D, (r + 1) * D);
    rstd[r] = 1 / Math.sqrt(dot(row, row) / D + epsilon);
    for (let d = 0; d < D; d++) y[r * D + d] = row[d]! * rstd[r]! * weight[d]!;
  }
  return { y, rstd };
}

/** ∂y_j/∂x_i = rstd · weight_j · ([i = j] − x_i x_j rstd² / D), summed against dy. */
export function rmsnormGradient(dy: Matrix, x: Matrix, weight: Matrix, epsilon: number) {
  const D = weight.length;
  const { rstd } = rmsnorm(x, weight, epsilon);
  const [dx, dweight] = [new Float64Array(x.length), new Float64Array(D)];
  for (const [r, scale] of rstd.entries()) {
    let projection = 0;
    for (let d = 0; d < D; d++) projection += dy[r * D + d]! * weight[d]! * x[r * D + d]!;
    for (let d = 0; d < D; d++) {
      const i = r * D + d;
      dx[i] = scale * (dy[i]! * weight[d]! - (x[i]! * projection * scale * scale) / D);
      dweight[d]! += dy[i]! * x[i]! * scale;
    }
  }
  return { dx, dweight };
}

/** Element d and d + Dh/2 of every head turned by the angle of its token's position, or turned back. */
export function rope(x: Matrix, cos: Matrix, sin: Matrix, positions: ArrayLike<number>, Dh: number, back = false) {
  const y = Float64Array.from(x);
  const half = Dh / 2;
  const width = x.length / positions.length;
  for (let t = 0; t < positions.length; t++)
    for (let h = 0; h < width / Dh; h++)
      for (let d = 0; d < half; d++) {
        const [i, angle] = [t * width + h * Dh + d, positions[t]! * half + d];
        const [a, b, c, s] = [x[i]!, x[i + half]!, cos[angle]!, back ? -sin[angle]! : sin[angle]!];
        y[i] = a * c - b * s;
        y[i + half] = b * c + a * s;
      }
  return y;
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
export function glu(x: Matrix, F: number, useGelu: boolean): Matrix {
  const act = useGelu ? gelu : silu;
  return Float64Array.from({ length: x.length / 2 }, (_, i) => {
    const gate = Math.floor(i / F) * 2 * F + (i % F);
    return act(x[gate]!) * x[gate + F]!;
  });
}

export function gluGradient(dy: Matrix, x: Matrix, F: number, useGelu: boolean): Matrix {
  const [act, slope] = useGelu ? [gelu, geluSlope] : [silu, siluSlope];
  const dx = new Float64Array(x.length);
  for (const [i, grad] of dy.entries()) {
    const gate = Math.floor(i / F) * 2 * F + (i % F);
    dx[gate] = grad * x[gate + F]! * slope(x[gate]!);
    dx[gate + F] = grad * act(x[gate]!);
  }
  return dx;
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
