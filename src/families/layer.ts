/**
 * A layer's structure: attention, gated MLP and the norms before them, with shapes. `P` stands for a parameter: its
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
  readonly q: Linear<P>; // (H·Dh, D)
  readonly k: Linear<P>; // (Hkv·Dh, D)
  readonly v: Linear<P>; // (Hkv·Dh, D)
  /** RMSNorm over each head of q and of k, before rotation. */
  readonly headNorms: { readonly q: P; readonly k: P } | null; // (Dh) each
  readonly o: Linear<P>; // (D, H·Dh)
}

/** down(act(gate(x)) · up(x)) */
export interface Mlp<P> {
  readonly activation: "silu" | "gelu_tanh";
  readonly intermediateSize: number;
  readonly gate: Linear<P>; // (F, D)
  readonly up: Linear<P>; // (F, D)
  readonly down: Linear<P>; // (D, F)
}

/** x += attention(inputNorm(x)), then x += mlp(postNorm(x)). */
export interface Layer<P> {
  readonly inputNorm: P; // (D)
  readonly attention: Attention<P>;
  readonly postNorm: P; // (D)
  readonly mlp: Mlp<P>;
}

/** The products of a layer that share their input, in the order in which their outputs stand side by side. */
export function productsOfOneInput<P>({ attention, mlp }: Layer<P>) {
  return { qkv: [attention.q, attention.k, attention.v], gateUp: [mlp.gate, mlp.up] } as const;
}

export function matrix(name: string, n: number, k: number): ParameterSpec {
  return { name, shape: [n, k], decays: true, trainable: true };
}

export function vector(name: string, n: number): ParameterSpec {
  return { name, shape: [n], decays: false, trainable: true };
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
  { inputNorm, attention, postNorm, mlp }: Layer<A>,
  f: (parameter: A) => B,
  adapt: (linear: Linear<A>, mapped: Linear<B>) => Linear<B> = (_, mapped) => mapped,
): Layer<B> {
  const map = (linear: Linear<A>): Linear<B> => {
    const { weight, bias, adapter } = linear;
    const mapped = { weight: f(weight), bias: bias && f(bias) };
    return adapt(linear, adapter ? { ...mapped, adapter: { ...adapter, a: f(adapter.a), b: f(adapter.b) } } : mapped);
  };
  const { q, k, v, headNorms, o } = attention;
  return {
    inputNorm: f(inputNorm),
    attention: {
      ...attention,
      ...{ q: map(q), k: map(k), v: map(v) },
      headNorms: headNorms && { q: f(headNorms.q), k: f(headNorms.k) },
      o: map(o),
    },
    postNorm: f(postNorm),
    mlp: { ...mlp, gate: map(mlp.gate), up: map(mlp.up), down: map(mlp.down) },
  };
}
