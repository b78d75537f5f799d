/**
 * The few complex functions that comparing two answers numerically needs. Plain float64, principal branches.
 * A value that is not finite means "cannot be compared"; nothing throws.
 */

export interface Complex {
  readonly re: number;
  readonly im: number;
}

export const cx = (re: number, im = 0): Complex => ({ re, im });
export const cAdd = (a: Complex, b: Complex): Complex => cx(a.re + b.re, a.im + b.im);
export const cSub = (a: Complex, b: Complex): Complex => cx(a.re - b.re, a.im - b.im);
export const cNeg = (a: Complex): Complex => cx(-a.re, -a.im);
export const cAbs = (a: Complex): number => Math.hypot(a.re, a.im);
export const cFinite = (a: Complex): boolean => Number.isFinite(a.re) && Number.isFinite(a.im);

export function cMul(a: Complex, b: Complex): Complex {
  if (a.im === 0 && b.im === 0) return cx(a.re * b.re);
  return cx(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re);
}

export function cDiv(a: Complex, b: Complex): Complex {
  if (b.im === 0) return cx(a.re / b.re, a.im === 0 ? 0 : a.im / b.re);
  const m = b.re * b.re + b.im * b.im;
  return cx((a.re * b.re + a.im * b.im) / m, (a.im * b.re - a.re * b.im) / m);
}

export function cExp(a: Complex): Complex {
  const m = Math.exp(a.re);
  return a.im === 0 ? cx(m) : cx(m * Math.cos(a.im), m * Math.sin(a.im));
}

export function cLog(a: Complex): Complex {
  if (a.im === 0 && a.re > 0) return cx(Math.log(a.re));
  return cx(Math.log(cAbs(a)), Math.atan2(a.im, a.re));
}

export function cSqrt(a: Complex): Complex {
  if (a.im === 0) return a.re >= 0 ? cx(Math.sqrt(a.re)) : cx(0, Math.sqrt(-a.re));
  const m = cAbs(a);
  const re = Math.sqrt((m + a.re) / 2);
  const im = Math.sqrt((m - a.re) / 2);
  return cx(re, a.im < 0 ? -im : im);
}

export function cPow(a: Complex, b: Complex): Complex {
  if (a.im === 0 && b.im === 0) {
    const real = a.re ** b.re;
    if (!Number.isNaN(real)) return cx(real);
  }
  if (a.re === 0 && a.im === 0) return b.re > 0 ? cx(0) : cx(Number.NaN);
  return cExp(cMul(b, cLog(a)));
}

export function cSin(a: Complex): Complex {
  if (a.im === 0) return cx(Math.sin(a.re));
  return cx(Math.sin(a.re) * Math.cosh(a.im), Math.cos(a.re) * Math.sinh(a.im));
}

export function cCos(a: Complex): Complex {
  if (a.im === 0) return cx(Math.cos(a.re));
  return cx(Math.cos(a.re) * Math.cosh(a.im), -Math.sin(a.re) * Math.sinh(a.im));
}

/** A function for real arguments; NaN off the real line. */
export const onReals = (f: (x: number) => number, a: Complex): Complex => cx(a.im === 0 ? f(a.re) : Number.NaN);
