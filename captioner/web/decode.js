// From the bytes of an image file to upright RGB pixels, white where the image is transparent.
//
// The browser decodes: it ignores colour profiles and applies the orientation of EXIF, as
// captioner/data/images.py does. Reasons for failures are worded as there.

const MAX_PIXELS = 50_000_000;
const THUMBNAIL = { side: 720, type: "image/jpeg", quality: 0.85 };

const SIGNATURES = [ // the text of the first bytes, in lower case, and what it is the start of
  [/ftyp(hei|hev|mif1|msf1)/, "a HEIC photo, which this browser cannot read: save it as JPEG"],
  [/^%pdf-/, "not an image (looks like a PDF document): save its page as PNG or JPEG"],
  [/^\s*(<!doctype html|<html)/, "not an image (looks like an HTML page): save the image itself"],
  [/<svg/, "not an image (looks like an SVG drawing): save it as PNG"],
  [/^(ii\*\0|mm\0\*)/, "a TIFF image, which this browser cannot read: save it as PNG or JPEG"],
  [/ftyp/, "not an image (looks like a video): save one picture of it as PNG or JPEG"],
];
const IMAGE_STARTS = /^(\xff\xd8\xff|\x89png|gif8|bm|riff....webp)/;

/**
 * Resolve to {pixels, thumbnail}: RGBA bytes as ImageData, and a Blob of a small JPEG.
 *
 * Throws an Error whose message is the reason and the way out.
 */
export async function decode(file) {
  if (file.size === 0) throw new Error("is empty (0 bytes): choose another file");
  const bitmap = await openBitmap(file);
  try {
    const { width, height } = bitmap;
    if (width * height > MAX_PIXELS) {
      const size = `${width.toLocaleString("en")} x ${height.toLocaleString("en")}`;
      const limit = MAX_PIXELS.toLocaleString("en");
      throw new Error(`too large: ${size} pixels, the limit is ${limit} in all: make it smaller`);
    }
    const pixels = draw(bitmap, width, height).getImageData(0, 0, width, height);
    return { pixels, thumbnail: await makeThumbnail(bitmap) };
  } finally {
    bitmap.close();
  }
}

async function openBitmap(file) {
  try {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    return await createImageBitmap(file, options);
  } catch {
    throw new Error(await reason(file));
  }
}

/** Return a canvas context with the image on white: alpha needs no further arithmetic. */
function draw(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw new Error("too large for this browser: make the image smaller");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context;
}

/** Resolve to a small JPEG of a bitmap, as a Blob. */
export function makeThumbnail(bitmap) {
  const scale = Math.min(1, THUMBNAIL.side / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height]
    .map((side) => Math.max(1, Math.round(side * scale)));
  return draw(bitmap, width, height).canvas.convertToBlob(THUMBNAIL);
}

/** Resolve to why a file that the browser cannot decode is no image. */
async function reason(file) {
  let start;
  try {
    start = new Uint8Array(await file.slice(0, 512).arrayBuffer());
  } catch {
    return "cannot be read: it was moved, deleted or changed: choose it again";
  }
  const text = String.fromCharCode(...start).toLowerCase();
  const known = SIGNATURES.find(([pattern]) => pattern.test(text));
  if (known) return known[1];
  if (IMAGE_STARTS.test(text)) {
    return "truncated or corrupt: it starts like an image, but cannot be read as one: open it in "
      + "another program and save it again";
  }
  return "not an image in a format that this browser reads: save it as JPEG or PNG";
}
