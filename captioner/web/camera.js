// The camera: a dialog with what it sees, and a picture as a file. It is on only in the dialog.

import { get } from "./elements.js";

const PROBLEMS = { // DOMException names of getUserMedia
  NotAllowedError: "the camera is not allowed on this page: allow it in the browser's address bar",
  NotFoundError: "no camera was found: connect one, or choose an image",
  NotReadableError: "another program uses the camera: close that program",
  OverconstrainedError: "no camera was found: connect one, or choose an image",
};

/** Connect the dialog. `onPicture` is called with a File, `onProblem` with why there is none. */
export function connectCamera(onPicture, onProblem) {
  const dialog = get("camera");
  const video = dialog.querySelector("video");
  let stream = null;
  let pictures = 0;

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
  }

  function switchOff() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
  }

  async function shoot() {
    if (!video.videoWidth) return; // no picture has come yet
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.95); });
    dialog.close();
    pictures += 1;
    onPicture(new File([blob], `camera ${pictures}.jpg`, { type: blob.type }));
  }

  get("open-camera").addEventListener("click", open);
  get("shoot").addEventListener("click", shoot);
  get("close-camera").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", switchOff); // also after Escape
}
