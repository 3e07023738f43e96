// The thread that holds the model. It answers each message {id, call, args} with {id, result} or
// {id, error}, one after the other, and sends {progress: [bytes, of]} while the model loads.

import { Model } from "./model.js";

let model; // of this thread, once `load` has resolved
let last = Promise.resolve();

const calls = {
  async load(base) {
    model = await Model.load(base, (...progress) => postMessage({ progress }));
    return model.settings;
  },
  check: (settings) => model.check(settings),
  caption: (file, settings) => model.caption(file, settings),
};

onmessage = ({ data: { id, call, args } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, result: await calls[call](...args) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};
