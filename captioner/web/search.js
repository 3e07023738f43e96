// Beam search for one image, as captioner/decoding/beam.py does it: the same captions in float32.
//
// The search knows a step function only: step(state, rows, tokens) continues the given rows of the
// state, each by one token. It resolves to {logProbs, state}: for each row, a Float32Array of the
// log-probabilities of the next token, and the new state. Shape letter: K slots.

import { BOS, EOS } from "./rules.js";

/** Return lp, which divides the log-probability; `length` counts <eos> (Wu et al. 2016). */
export function lengthNorm({ length_norm: name, length_alpha: alpha }, length) {
  switch (name) {
    case "none": return 1;
    case "average": return length;
    case "wu": return ((5 + length) / 6) ** alpha;
    default: throw new Error(`length_norm: '${name}' is not known`);
  }
}

/**
 * Resolve to the best captions, the best first: {tokens, logProbs, logProb}.
 *
 * `tokens` are without <bos> and <eos>; `logProbs` have one value for each of them and one for
 * <eos>; `logProb` is their sum. One beam is greedy search.
 *
 * @param step the step function of a model
 * @param state before the first token, one row
 * @param settings of decoding: captions, beam, max_length, length_norm, length_alpha
 * @param applyRules sets what may not come next to -Infinity: see rules.js
 */
export async function beamSearch(step, state, settings, applyRules) {
  const { captions: wanted, max_length: maxLength } = settings;
  const slots = Math.max(settings.beam, wanted); // K
  const score = (caption) =>
    caption.logProb / lengthNorm(settings, caption.tokens.length + 1);
  const finished = [];
  let beams = [{ row: 0, token: BOS, tokens: [], logProbs: [], total: 0 }];
  let openSlots = slots;
  for (let length = 0; length <= maxLength && beams.length; length++) {
    const rows = beams.map((beam) => beam.row);
    const next = await step(state, rows, beams.map((beam) => beam.token));
    state = next.state;
    next.logProbs.forEach((logProbs, row) => applyRules(beams[row].tokens, logProbs));
    const chosen = length < maxLength
      ? bestContinuations(beams, next.logProbs, openSlots, slots)
      : beams.map((_, row) => ({ row, token: EOS }));
    beams = chosen.map(({ row, token }) =>
      extend(beams[row], row, token, next.logProbs[row][token]));
    const ended = beams.filter((beam) => beam.token === EOS);
    if (!ended.length) continue;
    openSlots -= ended.length;
    finished.push(...ended.map(toCaption));
    finished.sort((a, b) => score(b) - score(a)); // stable: equal scores keep their order
    finished.length = Math.min(finished.length, wanted);
    beams = beams.filter((beam) => beam.token !== EOS);
    if (wanted < slots && finished.length === wanted) {
      // A beam's log-probability never rises and lp never falls: an upper bound on its captions.
      const worst = Math.fround(score(finished.at(-1)));
      const norm = lengthNorm(settings, maxLength + 1);
      const canImprove = beams.some((beam) => Math.fround(beam.total / norm) > worst);
      if (!canImprove) beams = [];
    }
  }
  return finished;
}

/** Return the likeliest continuations {row, token} of all beams, one for each open slot. */
function bestContinuations(beams, logProbs, openSlots, slots) {
  const candidates = beams.flatMap((beam, row) =>
    largest(logProbs[row], slots).map((token) =>
      ({ row, token, total: Math.fround(beam.total + logProbs[row][token]) })));
  return candidates
    .filter((candidate) => candidate.total !== -Infinity)
    .sort((a, b) => b.total - a.total)
    .slice(0, openSlots);
}

/** Return the indices of the `count` largest values, the largest first. */
function largest(values, count) {
  const best = [];
  for (let index = 0; index < values.length; index++) {
    if (best.length === count && values[index] <= values[best.at(-1)]) continue;
    let place = best.length;
    while (place > 0 && values[index] > values[best[place - 1]]) place--;
    best.splice(place, 0, index);
    if (best.length > count) best.pop();
  }
  return best;
}

function extend(beam, row, token, logProb) {
  return {
    row, // of the state after this step, which the beam continues
    token,
    tokens: [...beam.tokens, token],
    logProbs: [...beam.logProbs, logProb],
    total: Math.fround(beam.total + logProb),
  };
}

function toCaption({ tokens, logProbs }) {
  const logProb = logProbs.reduce((sum, value) => sum + value, 0);
  return { tokens: tokens.slice(0, -1), logProbs, logProb };
}
