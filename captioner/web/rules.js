// Rules of decoding: they set the log-probabilities of tokens that may not come next to -Infinity.
//
// A rule is a function (tokens so far, log-probabilities of the next token). The tokens of all
// models begin with <pad>, <bos>, <eos>, <unk>; only <eos> is ever generated.

export const PAD = 0, BOS = 1, EOS = 2, UNK = 3;

/**
 * Return the function that applies all rules to the log-probabilities of a next token, in place.
 *
 * `settings` are those of decoding; `prefix` and `forbidden` are token ids. `graphs` is
 * graphs.json: it lists the tokens that may be repeated.
 */
export function buildRules(settings, { prefix, forbidden, graphs }) {
  const rules = [forbid([PAD, BOS, UNK, ...forbidden])];
  if (settings.min_length) rules.push(minLength(settings.min_length));
  if (settings.no_repeat_ngram) rules.push(noRepeatNgram(settings.no_repeat_ngram));
  if (settings.no_double_words) rules.push(noDoubleWords(new Set(graphs.unspaced)));
  if (settings.no_repeat_words) {
    rules.push(noRepeatWords(new Set([...graphs.function_words, ...graphs.unspaced])));
  }
  return function apply(tokens, logProbs) {
    if (tokens.length < prefix.length) { // no other rule applies to the prefix
      const only = prefix[tokens.length];
      const value = logProbs[only];
      logProbs.fill(-Infinity);
      logProbs[only] = value;
      return;
    }
    const eosLogProb = logProbs[EOS];
    for (const rule of rules) rule(tokens, logProbs);
    if (tokens.length >= settings.max_length) logProbs.fill(-Infinity);
    // A caption for which the rules leave no token ends.
    if (logProbs.every((value) => value === -Infinity)) logProbs[EOS] = eosLogProb;
  };
}

function forbid(ids) {
  return (tokens, logProbs) => {
    for (const id of ids) logProbs[id] = -Infinity;
  };
}

function minLength(length) {
  return (tokens, logProbs) => {
    if (tokens.length < length) logProbs[EOS] = -Infinity;
  };
}

function noDoubleWords(exempt) {
  return (tokens, logProbs) => {
    const last = tokens.at(-1);
    if (last !== undefined && !exempt.has(last)) logProbs[last] = -Infinity;
  };
}

function noRepeatWords(exempt) {
  return (tokens, logProbs) => {
    for (const token of tokens) if (!exempt.has(token)) logProbs[token] = -Infinity;
  };
}

/** Forbid a second occurrence of any `n` tokens in a row. */
function noRepeatNgram(n) {
  return (tokens, logProbs) => {
    const last = tokens.slice(tokens.length - n + 1); // the next token would complete these n - 1
    for (let start = 0; start + n <= tokens.length; start++) {
      const isSame = last.every((token, offset) => token === tokens[start + offset]);
      if (isSame) logProbs[tokens[start + n - 1]] = -Infinity;
    }
  };
}
