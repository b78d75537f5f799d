/**
 * A layer's structure: attention, gated MLP and the norms around them, with shapes. `P` stands for a parameter: its
 * description (name, shape) here, its buffer on the device in `model/`. A new kind of part is added here and computed
 * in `model/layer.ts`.
 */
import type { AttentionShape } from "../device/device.ts";
import type { RopeConfig } from "./rope-settings.ts";

export interface ParameterSpec {
  /** As in the Hugging Face checkpoint. */
  readonly name: string;
  /** [N, K] for a matrix from K inputs to N outputs; [N] for a norm's weight or a bias. */
  readonly shape: readonly number[];
  /** AdamW's decoupled weight decay: matrices only, embeddings and head included. */
  readonly decays: boolean;
  /** False: no gradient or optimizer state; it stays as loaded. */
  readonly trainable: boolean;
  /** A matrix that is kept in NF4, and is never trained (four-bit.ts). */
  readonly quantized?: boolean;
  /** Of a norm: what is added to the weight before it multiplies; 0 by default. */
  readonly offset?: number;
  /** The parameter of which this is a copy, which is trained while that one stays for the reference. */
  readonly copyOf?: ParameterSpec;
}

/** y = x · weightᵀ + bias, + scale · (x · aᵀ) · bᵀ with an adapter */
export interface Linear<P> {
  readonly weight: P; // (N, K)
  readonly bias: P | null; // (N)
  readonly adapter?: Adapter<P>;
}

/** Low-rank matrices that are trained in place of a weight (adapters.ts). */
export interface Adapter<P> {
  readonly a: P; // (r, K)
  readonly b: P; // (N, r)
  readonly scale: number;
}

export interface Attention<P> {
  readonly shape: AttentionShape;
  readonly rope: RopeConfig;
  /** q, k and v, side by side in this order: a map each, or one that makes all. */
  readonly qkv: readonly Linear<P>[]; // (H·Dh, D), (Hkv·Dh, D), (Hkv·Dh, D), or ((H + 2·Hkv)·Dh, D)
  /** RMSNorm of q and of k before rotation, if there is one. */
  readonly headNorms: QkNorms<P> | null;
  readonly o: Linear<P>; // (D, H·Dh)
}

/** Over each head, with a weight (Dh) for all of them; or over all heads at once, with weights (H·Dh) and (Hkv·Dh). */
export interface QkNorms<P> {
  readonly over: "each head" | "all heads";
  readonly q: P;
  readonly k: P;
}

/**
 * Σ over a token's experts of p · down(act(gate(x)) · up(x)): the k most probable ones by softmax(x · routerᵀ), with their
 * probabilities (Shazeer et al. 2017, arXiv 1701.06538).
 */
export interface Experts<P> {
  readonly activation: Mlp<P>["activation"];
  /** Of one expert. */
  readonly intermediateSize: number;
  readonly router: P; // (E, D)
  /** k */
  readonly perToken: number;
  /** The probabilities of a token's experts are divided by their sum. */
  readonly normalized: boolean;
  readonly gate: readonly P[]; // (F, D) each of E
  readonly up: readonly P[]; // (F, D) each of E
  readonly down: readonly P[]; // (D, F) each of E
}

export function isExperts<P>(mlp: Mlp<P> | Experts<P>): mlp is Experts<P> {
  return "router" in mlp;
}

/** down(act(gate(x)) · up(x)) */
export interface Mlp<P> {
  readonly activation: "silu" | "gelu_tanh";
  readonly intermediateSize: number;
  /** gate and up, side by side in this order: a map each, or one that makes both. */
  readonly gateUp: readonly Linear<P>[]; // (F, D), (F, D), or (2F, D)
  readonly down: Linear<P>; // (D, F)
}

/**
 * x += attentionNorm(attention(inputNorm(x))), then x += mlpNorm(mlp(postNorm(x))). A norm that is null is left out.
 */
export interface Layer<P> {
  readonly inputNorm: P | null; // (D)
  readonly attention: Attention<P>;
  readonly attentionNorm: P | null; // (D)
  readonly postNorm: P | null; // (D)
  readonly mlp: Mlp<P> | Experts<P>;
  readonly mlpNorm: P | null; // (D)
}

/** The products of a layer that share their input, in the order in which their outputs stand side by side. */
export function productsOfOneInput<P>({ attention, mlp }: Layer<P>) {
  return { qkv: attention.qkv, gateUp: isExperts(mlp) ? [] : mlp.gateUp } as const;
}

export function matrix(name: string, n: number, k: number): ParameterSpec {
  return { name, shape: [n, k], decays: true, trainable: true };
}

export function vector(name: string, n: number, offset = 0): ParameterSpec {
  const spec = { name, shape: [n], decays: false, trainable: true };
  return offset === 0 ? spec : { ...spec, offset };
}

export function linear(name: string, n: number, k: number, bias: boolean): Linear<ParameterSpec> {
  return { weight: matrix(`${name}.weight`, n, k), bias: bias ? vector(`${name}.bias`, n) : null };
}

/**
 * Maps each parameter through `f`, in the order of the forward pass.
 *
 * @param adapt takes each linear map and what has become of it
 */
export function mapLayer<A, B>(
  layer: Layer<A>,
  f: (parameter: A) => B,
  adapt: (linear: Linear<A>, mapped: Linear<B>) => Linear<B> = (_, mapped) => mapped,
): Layer<B> {
  const optional = (parameter: A | null): B | null => (parameter === null ? null : f(parameter));
  const map = (linear: Linear<A>): Linear<B> => {
    const { weight, bias, adapter } = linear;
    const mapped = { weight: f(weight), bias: optional(bias) };
    return adapt(linear, adapter ? { ...mapped, adapter: { ...adapter, a: f(adapter.a), b: f(adapter.b) } } : mapped);
  };
  const { attention, mlp } = layer;
  const { qkv, headNorms, o } = attention;
  return {
    inputNorm: optional(layer.inputNorm),
    attention: {
      ...attention,
      qkv: qkv.map(map),
      headNorms: headNorms && { ...headNorms, q: f(headNorms.q), k: f(headNorms.k) },
      o: map(o),
    },
    attentionNorm: optional(layer.attentionNorm),
    postNorm: optional(layer.postNorm),
    mlp: isExperts(mlp) ? mapExperts(mlp, f) : { ...mlp, gateUp: mlp.gateUp.map(map), down: map(mlp.down) },
    mlpNorm: optional(layer.mlpNorm),
  };
}

/** Expert by expert. */
function mapExperts<A, B>(mlp: Experts<A>, f: (parameter: A) => B): Experts<B> {
  const router = f(mlp.router);
  const [gate, up, down]: [B[], B[], B[]] = [[], [], []];
  for (let e = 0; e < mlp.gate.length; e++) {
    gate.push(f(mlp.gate[e]!));
    up.push(f(mlp.up[e]!));
    down.push(f(mlp.down[e]!));
  }
  return { ...mlp, router, gate, up, down };
}
