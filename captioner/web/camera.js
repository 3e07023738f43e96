// The camera: a dialog with what it sees, the caption of that, and a picture as a file. It is on
// only in the dialog.

import { get } from "./elements.js";

const PROBLEMS = { // DOMException names of getUserMedia
  NotAllowedError: "the camera is not allowed on this page: allow it in the browser's address bar",
  NotFoundError: "no camera was found: connect one, or choose an image",
  NotReadableError: "another program uses the camera: close that program",
  OverconstrainedError: "no camera was found: connect one, or choose an image",
};

const INTERVAL = 1000; // milliseconds from a frame that is captioned to the next
const FRAME_WIDTH = 640; // pixels of such a frame: models see less

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/**
 * Connect the dialog.
 *
 * `onPicture` is called with a File, `onProblem` with why there is none. `captionFrame()` returns
 * a function (File, AbortSignal) that resolves to the text to show, or null if frames have none.
 */
export function connectCamera(onPicture, onProblem, captionFrame) {
  const dialog = get("camera");
  const video = dialog.querySelector("video");
  let stream = null;
  let pictures = 0;
  let closed = new AbortController(); // of the dialog that is open

  async function open() {
    onProblem("");
    if (!navigator.mediaDevices?.getUserMedia) {
      onProblem("Camera: browsers allow it on https pages and localhost only: open the page there");
      return;
    }
    try {
      const wanted = { facingMode: "environment", width: { ideal: 1280 } };
      stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    } catch (error) {
      onProblem(`Camera: ${PROBLEMS[error.name] ?? `${error.message}: choose an image instead`}`);
      return;
    }
    video.srcObject = stream;
    dialog.showModal();
    get("shoot").focus();
    closed = new AbortController();
    const caption = captionFrame();
    get("live").hidden = !caption;
    if (caption) captionFrames(caption, closed.signal);
  }

  /** Caption what the camera sees now, again and again. No frame waits while one is captioned. */
  async function captionFrames(caption, signal) {
    const show = (text) => {
      if (!signal.aborted && get("live").textContent !== text) get("live").textContent = text;
    };
    show("");
    while (!signal.aborted) {
      const due = sleep(INTERVAL);
      const frame = document.hidden ? null : await takeFrame(FRAME_WIDTH, 0.85);
      if (frame && !signal.aborted) {
        try {
          show(await caption(new File([frame], "frame.jpg"), signal));
        } catch (error) {
          show(error.message);
          if (error.retryAfter) await sleep(1000 * error.retryAfter);
        }
      }
      await due;
    }
  }

  /** Resolve to what the camera sees as a JPEG, or to null if nothing has come yet. */
  function takeFrame(width, quality) {
    if (!video.videoWidth) return null;
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, width / video.videoWidth);
    canvas.width = Math.round(scale * video.videoWidth);
    canvas.height = Math.round(scale * video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", quality); });
  }

  function switchOff() {
    closed.abort();
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
  }

  async function shoot() {
    const blob = await takeFrame(Infinity, 0.95);
    if (!blob) return;
    dialog.close();
    pictures += 1;
    onPicture(new File([blob], `camera ${pictures}.jpg`, { type: blob.type }));
  }

  get("open-camera").addEventListener("click", open);
  get("shoot").addEventListener("click", shoot);
  get("close-camera").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", switchOff); // also after Escape
}
