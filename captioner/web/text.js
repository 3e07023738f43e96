// Words and token ids: what captioner/text/tokenizer.py does for captions, in the browser.

import { EOS } from "./rules.js";

const ABBREVIATED = `
  jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
  ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn
  tenn va vt wis wisc wyo
  adj adm adv asst atty attys brig capt cmdr col comdr cpl det dr drs ens esq gen gov govs hon
  insp jr lieut lt maj messrs mlle mme mr mrs ms msgr pfc pres prof profs pvt rep reps rev sen
  sens sfc sgt spc sr supt supts
  ave blvd ft mt rd rt st ste
  assn assoc bancorp bhd bldg bros cie co corp cos dept elec inc intl invt ltd mfg mtg natl plc
  ppty pptys pte ptes pty ptys sys univ
  al cf est etc ext jos ph seq sq tel treas vs wm`.trim().split(/\s+/);

const CHAR = String.raw`[^\s\x00-/:-@\[-^\`{-\x7f“”„«»…–—]`;
const LETTER = String.raw`(?:(?!\d)${CHAR})`;
const END = `(?!${CHAR})`;
const CLITIC = String.raw`'(?:s|m|d|t|ll|re|ve|em|till?|n'?|\d0s)${END}`;
// The words of a lower-case text: see the regular expression of the same name in tokenizer.py.
const WORD = new RegExp([
  String.raw`-[lr][rcs]b-`,
  "(" + [
    String.raw`[a-z](?:\.[a-z])+\.?${END}(?:-${CHAR}+)*`,
    String.raw`[a-z]\.(?=[ ](?!(?:an?|the)${END})\w)`,
    String.raw`(?:${ABBREVIATED.sort().join("|")})\.${END}`,
    String.raw`(?:art|ca|figs?|nos?|op|pp|prop)\.(?=[ ]?\d)`,
    `(?:can(?=not${END})|gim(?=me${END})|gon(?=na${END})|got(?=ta${END})`
      + `|lem(?=me${END})|wan(?=na${END}))`,
    `${LETTER}+(?=n't${END})`, `n't${END}`, CLITIC,
    String.raw`(?:\d+(?:[.,:]\d+)+|(?<!\S)[-+]\d+|(?<!\w)\.\d+)(?:-${CHAR}+)*`,
    `[#]${LETTER}${CHAR}*`,
    String.raw`${CHAR}+(?:(?:[-/]|(?<!\d)(?:\.|(?!${CLITIC})')(?!\d))${CHAR}+)*`,
    String.raw`[#$%&*+/<=>@\\^|~]`,
  ].join("|") + ")",
].join("|"), "g");
const CLITIC_SPACE = /(?<!\S)([a-z]+) (?=n't(?!\S))|(?<=[a-z]) (?='(?:s|m|d|ll|re|ve)(?!\S))/g;

/** Return the lower-case words of a text: "A dog's bowl." is a, dog, 's, bowl. */
export function tokenize(text) {
  const line = text.normalize("NFC").toLowerCase().trim().replace(/\s+/g, " ")
    .replace(/[‘’]/g, "'").replaceAll("&amp;", "&");
  return [...line.matchAll(WORD)].flatMap((match) => match[1] ?? []);
}

/** The words of a model: a word's index is its id, and the first four are <pad> to <unk>. */
export class Vocabulary {
  /** `unspaced` are the ids of characters of scripts without spaces, as in graphs.json. */
  constructor(words, unspaced) {
    this.words = words;
    this.unspaced = new Set(unspaced);
    this.ids = new Map(words.map((word, id) => [word, id]).slice(4));
  }

  /** Return the ids of words that a setting needs; throw an error that names an unknown word. */
  idsOf(words, setting) {
    return words.map((word) => {
      if (!this.ids.has(word)) {
        throw new Error(`${setting}: “${word}” is not a word that this model knows: remove it`);
      }
      return this.ids.get(word);
    });
  }

  /** Return token ids as a readable caption: does n't is doesn't, and 犬 が is 犬が. */
  detokenize(ids) {
    let text = "";
    ids.filter((id) => id !== EOS).forEach((id, index) => {
      const joins = this.unspaced.has(id) || this.unspaced.has(ids[index - 1]);
      text += index === 0 || joins ? this.words[id] : ` ${this.words[id]}`;
    });
    return text.replace(CLITIC_SPACE, (_, before) => before ?? "");
  }
}
