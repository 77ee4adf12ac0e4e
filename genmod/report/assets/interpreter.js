// Follows the operations that genmod/report/operations.py writes down.
"use strict";

const genmodInterpreter = (() => {
  // By its power series, for |x| < 2.
  function erfNearZero(x) {
    let [term, total] = [x, x];
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) {
      term *= (-x * x) / n;
      total += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * total;
  }

  // 1 - erf(x) by its continued fraction, for x >= 2.
  function erfcFarOut(x) {
    let fraction = x;
    for (let n = 40; n > 0; n--) fraction = x + n / 2 / fraction;
    return Math.exp(-x * x) / (Math.sqrt(Math.PI) * fraction);
  }

  function erf(x) {
    return Math.abs(x) < 2 ? erfNearZero(x) : Math.sign(x) * (1 - erfcFarOut(Math.abs(x)));
  }

  function erfc(x) {
    if (x >= 2) return erfcFarOut(x);
    return x <= -2 ? 2 - erfcFarOut(-x) : 1 - erfNearZero(x);
  }

  // As C has it: 1 to the power of NaN, and -1 to that of infinity, are 1.
  function pow(x, y) {
    return x === 1 || (x === -1 && Math.abs(y) === Infinity) ? 1 : Math.pow(x, y);
  }

  // Half to even, as NumPy and XLA round.
  function round(x) {
    const near = Math.round(x);
    return near - x === 0.5 && near % 2 !== 0 ? near - 1 : near;
  }

  const ELEMENTWISE = {
    add: (x, y) => x + y,
    sub: (x, y) => x - y,
    mul: (x, y) => x * y,
    div: (x, y) => x / y,
    max: (x, y) => Math.max(x, y),
    min: (x, y) => Math.min(x, y),
    pow,
    rem: (x, y) => x % y,
    lt: (x, y) => +(x < y),
    le: (x, y) => +(x <= y),
    gt: (x, y) => +(x > y),
    ge: (x, y) => +(x >= y),
    eq: (x, y) => +(x === y),
    ne: (x, y) => +(x !== y),
    and: (x, y) => +(x && y),
    or: (x, y) => +(x || y),
    not: (x) => +!x,
    neg: (x) => -x,
    abs: Math.abs,
    sign: Math.sign,
    floor: Math.floor,
    ceil: Math.ceil,
    round,
    round_away: (x) => Math.sign(x) * Math.floor(Math.abs(x) + 0.5),
    exp: Math.exp,
    expm1: Math.expm1,
    log: Math.log,
    log1p: Math.log1p,
    sqrt: Math.sqrt,
    rsqrt: (x) => 1 / Math.sqrt(x),
    square: (x) => x * x,
    sin: Math.sin,
    cos: Math.cos,
    tanh: Math.tanh,
    logistic: (x) => 1 / (1 + Math.exp(-x)),
    erf,
    erfc,
    is_finite: (x) => +Number.isFinite(x),
    select_n: (which, ...cases) => cases[which],
    clamp: (low, x, high) => Math.min(Math.max(x, low), high),
  };

  // Calls visit(place, i) for the i-th index of `shape`, with place = offset + strides . index.
  function places({ shape, strides, offset = 0 }, visit) {
    const index = new Array(shape.length).fill(0);
    const size = shape.reduce((total, side) => total * side, 1);
    let place = offset;
    for (let i = 0; i < size; i++) {
      visit(place, i);
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        place += strides[axis];
        if (++index[axis] < shape[axis]) break;
        place -= strides[axis] * shape[axis];
        index[axis] = 0;
      }
    }
  }

  const OPERATIONS = {
    view(step, out, [x]) {
      places(step, (place, i) => (out[i] = x[place]));
    },
    place(step, out, [x, piece]) {
      out.set(x);
      places(step, (place, i) => (out[place] = piece[i]));
    },
    // Where all of y is finite, zeros add nothing: half of what a rectifier lets through.
    matmul({ k, finite }, out, [x, y]) {
      const rows = x.length / k;
      const columns = y.length / k;
      const total = new Float64Array(columns);
      for (let row = 0; row < rows; row++) {
        total.fill(0);
        for (let i = 0; i < k; i++) {
          const factor = x[row * k + i];
          if (factor === 0 && finite) continue;
          const start = i * columns;
          for (let j = 0; j < columns; j++) total[j] += factor * y[start + j];
        }
        out.set(total, row * columns);
      }
    },
    sum({ k }, out, [x]) {
      for (let i = 0; i < out.length; i++) {
        let total = 0;
        for (let j = 0; j < k; j++) total += x[i * k + j];
        out[i] = total;
      }
    },
    maximum({ k }, out, [x]) {
      for (let i = 0; i < out.length; i++) {
        let most = -Infinity;
        for (let j = 0; j < k; j++) most = Math.max(most, x[i * k + j]);
        out[i] = most;
      }
    },
    conv(step, out, [x, kernel]) {
      const [height, width, channels] = step.x;
      const [rows, columns, depth] = step.shape;
      const [tall, broad] = step.kernel;
      const [stepDown, stepRight] = step.stride;
      const [gapDown, gapRight] = step.dilation;
      const total = new Float64Array(depth);
      // The first number of a pixel; -1 in the padding, and between what is dilated.
      const pixel = (down, right) => {
        if (down < 0 || down % gapDown || down / gapDown >= height) return -1;
        if (right < 0 || right % gapRight || right / gapRight >= width) return -1;
        return ((down / gapDown) * width + right / gapRight) * channels;
      };
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          total.fill(0);
          for (let i = 0; i < tall; i++) {
            for (let j = 0; j < broad; j++) {
              const down = row * stepDown - step.before[0] + i;
              const place = pixel(down, column * stepRight - step.before[1] + j);
              if (place < 0 && step.finite) continue;
              for (let c = 0; c < channels; c++) {
                const factor = place < 0 ? 0 : x[place + c];
                if (factor === 0 && step.finite) continue;
                const start = ((i * broad + j) * channels + c) * depth;
                for (let d = 0; d < depth; d++) total[d] += factor * kernel[start + d];
              }
            }
          }
          out.set(total, (row * columns + column) * depth);
        }
      }
    },
  };

  function elementwise(step, out, given) {
    const f = ELEMENTWISE[step.f];
    const [x, y, z] = given;
    const strides = given.map((values) => (values.length === 1 ? 0 : 1));
    const [dx, dy, dz] = strides;
    if (given.length === 1) for (let i = 0; i < out.length; i++) out[i] = f(x[i * dx]);
    else if (given.length === 2) for (let i = 0; i < out.length; i++) out[i] = f(x[i * dx], y[i * dy]);
    else if (given.length === 3) {
      for (let i = 0; i < out.length; i++) out[i] = f(x[i * dx], y[i * dy], z[i * dz]);
    } else for (let i = 0; i < out.length; i++) out[i] = f(...given.map((v, k) => v[i * strides[k]]));
  }

  function bytes(text) {
    const binary = atob(text);
    return Uint8Array.from(binary, (letter) => letter.charCodeAt(0)).buffer;
  }

  function constant({ f32, i16, scale }) {
    if (f32 !== undefined) return new Float32Array(bytes(f32));
    return Float32Array.from(new Int16Array(bytes(i16)), (value) => Math.fround(value * scale));
  }

  function constants(written) {
    return Object.entries(written).map(([number, value]) => [number, constant(value)]);
  }

  // A function (z, choice) -> pixels, a Float32Array [H * W * C] that the next call overwrites. The
  // choice is the number of one of the program's choices, if it has any.
  function decoder(program) {
    const values = [];
    const choices = program.choices.map(constants);
    for (const [number, value] of constants(program.constants)) values[number] = value;
    for (const step of program.steps) values[step.out] = new Float32Array(step.n);
    return (z, choice = 0) => {
      if (z.length !== program.latentDim) {
        throw new RangeError(`z must have ${program.latentDim} numbers, got ${z.length}`);
      }
      if (choices.length && !choices[choice]) {
        throw new RangeError(`choice must be one of ${choices.length}, from 0, got ${choice}`);
      }
      values[0] = Float32Array.from(z);
      for (const [number, value] of choices[choice] || []) values[number] = value;
      for (const step of program.steps) {
        const given = step.a.map((number) => values[number]);
        (OPERATIONS[step.f] || elementwise)(step, values[step.out], given);
      }
      return values[program.result];
    };
  }

  return { decoder, operations: [...Object.keys(OPERATIONS), ...Object.keys(ELEMENTWISE)] };
})();

if (typeof module !== "undefined") module.exports = genmodInterpreter;
