// The normal distribution in logarithms, accurate far in its tails; see nbcompress/optimize/acquisition.py.

const SQRT_PI = Math.sqrt(Math.PI);
const LOG_SQRT_2PI = 0.5 * Math.log(2 * Math.PI);
const SERIES_UNTIL = 2;

// Half the width of a 95 % interval in standard deviations, as in nbcompress/panels/surrogate_data.py.
export const WIDTH_95 = 1.96;

// exp(x^2) erfc(x) for x >= 0.
export function erfcx(x: number): number {
  if (x < SERIES_UNTIL) {
    // erf(x) = 2 / sqrt(pi) sum_n (-1)^n x^(2n + 1) / (n! (2n + 1))
    let [term, sum] = [x, x];
    for (let n = 1; n < 60; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return Math.exp(x * x) * (1 - (2 / SQRT_PI) * sum);
  }
  // Laplace's continued fraction, evaluated from its end.
  let fraction = x;
  for (let n = 80; n >= 1; n--) {
    fraction = x + n / 2 / fraction;
  }
  return 1 / (SQRT_PI * fraction);
}

export function logPdf(z: number): number {
  return -0.5 * z * z - LOG_SQRT_2PI;
}

// log P(Z <= z)
export function logCdf(z: number): number {
  const x = Math.abs(z) * Math.SQRT1_2;
  const tail = 0.5 * erfcx(x);
  return z > 0 ? Math.log1p(-tail * Math.exp(-x * x)) : Math.log(tail) - x * x;
}

// log(phi(z) + z Phi(z))
export function logH(z: number): number {
  if (z > -1) {
    return Math.log(Math.exp(logPdf(z)) + z * Math.exp(logCdf(z)));
  }
  const ratio = Math.sqrt(Math.PI / 2) * erfcx(-z * Math.SQRT1_2) * -z;
  // For large |z| the ratio tends to 1 - 1 / z^2, and the series is more accurate than 1 - ratio, which cancels.
  const inverse = 1 / (z * z);
  const rest = z < -100 ? inverse * (1 - 3 * inverse * (1 - 5 * inverse)) : 1 - ratio;
  return logPdf(z) + Math.log(rest);
}

// log E[max(target - loss, 0)] of a normal loss.
export function logExpectedImprovement(mean: number, std: number, target: number): number {
  return Math.log(std) + logH((target - mean) / std);
}
