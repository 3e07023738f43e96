// From an image of any size to the input of the encoder, byte for byte as Pillow computes it.
//
// The model was trained on `Image.resize(size, BILINEAR, box=box, reducing_gap=2.0)`: an
// antialiased triangle filter in fixed-point arithmetic. A canvas resizes with other filters, which
// changes captions. An image here is {width, height, data}, with data as RGBA bytes; alpha is
// not read.

const PRECISION_BITS = 32 - 8 - 2; // of the filter's coefficients
const REDUCING_GAP = 2;
const SUPPORT = 1; // of the triangle filter, in pixels of the smaller of the two images

/** Return the input of the encoder, (3, size, size) as bytes, for `encoder` of config.json. */
export function preprocess(image, encoder) {
  const size = encoder.image_size;
  const box = encoder.transform === "crop" ? centreBox(image) : [0, 0, image.width, image.height];
  const { data } = resize(image, box, size, size);
  const pixels = new Uint8Array(3 * size * size);
  for (let channel = 0, to = 0; channel < 3; channel++) {
    for (let from = channel; from < data.length; from += 4) pixels[to++] = data[from];
  }
  return pixels;
}

/** Return the central square of 7/8 of the short side, not rounded: left, top, right, bottom. */
function centreBox({ width, height }) {
  const side = (Math.min(width, height) * 7) / 8;
  const left = (width - side) * 0.5;
  const top = (height - side) * 0.5;
  return [left, top, Math.min(left + side, width), Math.min(top + side, height)];
}

/**
 * Return a box of an image, resized to width x height.
 *
 * A large image is first reduced by whole factors, to no less than `REDUCING_GAP` times the size.
 */
export function resize(image, box, width, height) {
  const factorX = Math.trunc((box[2] - box[0]) / width / REDUCING_GAP) || 1;
  const factorY = Math.trunc((box[3] - box[1]) / height / REDUCING_GAP) || 1;
  if (factorX > 1 || factorY > 1) {
    const [left, top, right, bottom] = safeBox(image, box, width, height);
    image = reduce(image, factorX, factorY, [left, top, right, bottom]);
    box = [
      (box[0] - left) / factorX, (box[1] - top) / factorY,
      (box[2] - left) / factorX, (box[3] - top) / factorY,
    ];
  }
  const [x0, y0, x1, y1] = box.map(Math.fround); // Pillow passes the box on in float32
  const needsX = width !== image.width || x0 !== 0 || x1 !== width;
  const needsY = height !== image.height || y0 !== 0 || y1 !== height;
  const rows = () => resampleRows(image, filterTaps(image.width, x0, x1, width), width);
  const columns = () => resampleColumns(image, filterTaps(image.height, y0, y1, height), height);
  // The order changes the rounding. Pillow 13 takes the columns first if that removes many rows.
  const removed = [image.width - width, image.height - height];
  const columnsFirst = needsX && needsY && removed[1] > 0 && 2 * removed[0] < removed[1];
  if (columnsFirst) image = columns();
  if (needsX) image = rows();
  if (needsY && !columnsFirst) image = columns();
  return image;
}

/** Return the whole pixels that the filter may read for a box: left, top, right, bottom. */
function safeBox(image, box, width, height) {
  const supportX = ((SUPPORT - 0.5) * (box[2] - box[0])) / width;
  const supportY = ((SUPPORT - 0.5) * (box[3] - box[1])) / height;
  return [
    Math.max(0, Math.trunc(box[0] - supportX)),
    Math.max(0, Math.trunc(box[1] - supportY)),
    Math.min(image.width, Math.ceil(box[2] + supportX)),
    Math.min(image.height, Math.ceil(box[3] + supportY)),
  ];
}

/** Return the means of blocks of factorX x factorY pixels; those at the edges may be smaller. */
export function reduce(image, factorX, factorY, [left, top, right, bottom]) {
  const width = Math.ceil((right - left) / factorX);
  const height = Math.ceil((bottom - top) / factorY);
  const data = new Uint8ClampedArray(4 * width * height);
  const stride = 4 * image.width;
  for (let y = 0, to = 0; y < height; y++) {
    const rowStart = top + y * factorY;
    const rows = Math.min(factorY, bottom - rowStart);
    for (let x = 0; x < width; x++, to += 4) {
      const columnStart = left + x * factorX;
      const columns = Math.min(factorX, right - columnStart);
      let red = 0, green = 0, blue = 0;
      for (let row = 0; row < rows; row++) {
        let from = (rowStart + row) * stride + 4 * columnStart;
        for (let column = 0; column < columns; column++, from += 4) {
          red += image.data[from];
          green += image.data[from + 1];
          blue += image.data[from + 2];
        }
      }
      // Division by `count`, rounded, as a multiplication by 2^24 / count, rounded in float32.
      const count = rows * columns;
      const half = count >> 1;
      const multiplier = Math.trunc(Math.fround(2 ** 32 / Math.fround(256 * count)));
      data[to] = ((red + half) * multiplier) >>> 24;
      data[to + 1] = ((green + half) * multiplier) >>> 24;
      data[to + 2] = ((blue + half) * multiplier) >>> 24;
    }
  }
  return { width, height, data };
}

/**
 * Return what each of `size` output positions reads of an axis with `length` pixels.
 *
 * `start[i]` is the first pixel, `count[i]` how many there are, and `weights` from i * stride on
 * are their weights, times 2^PRECISION_BITS. The triangle is as wide as an output pixel, or
 * as an input pixel if that is wider.
 */
function filterTaps(length, low, high, size) {
  const scale = Math.fround(high - low) / size; // input pixels for each output pixel
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const start = new Int32Array(size);
  const count = new Int32Array(size);
  const weights = new Int32Array(size * stride);
  const own = new Float64Array(stride);
  for (let i = 0; i < size; i++) {
    const centre = low + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const taps = Math.min(length, Math.trunc(centre + support + 0.5)) - first;
    let total = 0;
    for (let tap = 0; tap < taps; tap++) {
      own[tap] = Math.max(0, 1 - Math.abs((tap + first - centre + 0.5) * (1 / filterScale)));
      total += own[tap];
    }
    for (let tap = 0; tap < taps; tap++) {
      const share = total === 0 ? own[tap] : own[tap] / total;
      weights[i * stride + tap] = Math.trunc(0.5 + share * 2 ** PRECISION_BITS);
    }
    start[i] = first;
    count[i] = taps;
  }
  return { start, count, weights, stride };
}

/** Return an image whose rows are filtered and have `width` pixels. */
function resampleRows(image, { start, count, weights, stride }, width) {
  const data = new Uint8ClampedArray(4 * width * image.height);
  for (let y = 0, to = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const from = 4 * (y * image.width + start[x]);
      sumTaps(image.data, from, 4, weights, x * stride, count[x], data, to);
    }
  }
  return { width, height: image.height, data };
}

/** Return an image whose columns are filtered and have `height` pixels. */
function resampleColumns(image, { start, count, weights, stride }, height) {
  const { width } = image;
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const from = 4 * (start[y] * width + x);
      sumTaps(image.data, from, 4 * width, weights, y * stride, count[y], data, to);
    }
  }
  return { width, height, data };
}

/** Write the weighted sum of `count` pixels, `step` bytes apart, to the pixel at `to`. */
function sumTaps(source, from, step, weights, first, count, target, to) {
  let red = 1 << (PRECISION_BITS - 1); // one half: the shift below rounds
  let green = red, blue = red;
  for (let tap = first; tap < first + count; tap++, from += step) {
    const weight = weights[tap];
    red += source[from] * weight;
    green += source[from + 1] * weight;
    blue += source[from + 2] * weight;
  }
  target[to] = red >> PRECISION_BITS; // the array clamps to 0..255
  target[to + 1] = green >> PRECISION_BITS;
  target[to + 2] = blue >> PRECISION_BITS;
}
