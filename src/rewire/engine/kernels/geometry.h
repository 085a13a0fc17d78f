// How a layer is cut into passes, tiles and blocks of channels. The stream and the kernels must agree on it, so both ask
// here, and nothing of it is stored.
//
// A pass is a convolution of one blocked tensor into another. The forward product of a layer is one pass. The gradient of
// the input is one pass for stride 1, and for stride s one for each of the s * s parities of the input's places.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "vector.h"

struct Layer {
  int64_t out, in, kernel_h, kernel_w, stride, pad_h, pad_w, height, width, blocks, count;
  int64_t out_h, out_w;

  explicit Layer(const int64_t* layer)
      : out(layer[0]), in(layer[1]), kernel_h(layer[2]), kernel_w(layer[3]), stride(layer[4]), pad_h(layer[5]),
        pad_w(layer[6]), height(layer[7]), width(layer[8]), blocks(layer[9]), count(layer[10]),
        out_h((height + 2 * pad_h - kernel_h) / stride + 1), out_w((width + 2 * pad_w - kernel_w) / stride + 1) {}

  // A 1x1 convolution over all places, which need not know where they lie; a Linear is one.
  bool pointwise() const { return kernel_h == 1 && kernel_w == 1 && stride == 1 && pad_h == 0 && pad_w == 0; }

  // About how many entries its stream has.
  int64_t entries() const { return unrolled() ? count * std::min(out_h * out_w, height * width) / 2 : count; }

  // On maps of at most 2x2 the padding would be most of a tile: the convolution is written out as a Linear over
  // (channel, y, x), with one entry for every place that a weight meets.
  bool unrolled() const { return kernel_h * kernel_w > 1 && height * width <= 4; }
};

struct Plane {  // a tensor of a pass; strides in groups of 16 floats
  int64_t channels, height, width;
  int64_t stride_n, stride_c, stride_y, stride_x, start;
};

struct Pass {
  int64_t images;       // of 16 lanes each
  Plane input, output;
  int64_t step;         // between the places of the input that two neighbouring outputs read
  int64_t kernel_h, kernel_w, top, left;  // output (y, x) reads input rows y * step - top + [0, kernel_h)
  int64_t per_bias = 1; // outputs that share a bias
  int64_t tile_h = 1, tile_w = 1;  // places of the output that are kept in registers together
  int64_t block = 1;    // input channels that lie in the scratch together
  int64_t planes_h = 1, planes_w = 1, plane_h = 1, plane_w = 1;  // the scratch of a channel: parities of step, then places

  int64_t tiles_h() const { return (output.height + tile_h - 1) / tile_h; }
  int64_t tiles_w() const { return (output.width + tile_w - 1) / tile_w; }
  int64_t units() const { return images * tiles_h() * tiles_w(); }
  int64_t groups() const { return planes_h * planes_w * plane_h * plane_w; }  // of the scratch, a channel
  int64_t rounds() const { return (input.channels + block - 1) / block; }
  int64_t pointers() const { return rounds() * output.channels + 1; }

  // Where in the scratch of a round the tap (row, column) of a channel begins, in groups.
  int64_t offset(int64_t channel, int64_t row, int64_t column) const {
    int64_t plane = (row % step) * planes_w + column % step;
    return ((channel % block) * planes_h * planes_w + plane) * plane_h * plane_w + (row / step) * plane_w + column / step;
  }
};

// How much of the input lies in the scratch together, in bytes: about what the first-level cache holds (once to twice
// SCRATCH_NEAR, which was as fast as less); but more, up to what the second one holds, where an output would get fewer entries a round than are worth loading and storing its sums. They are
// worth more where the sums of a tile do not stay in the second-level cache.
constexpr int64_t SCRATCH_NEAR = 48 * 1024, SCRATCH_MOST = 400 * 1024;
constexpr int64_t SUMS_NEAR = 256 * 1024, ENTRIES_NEAR = 6, ENTRIES_FAR = 13;

// The tiles that a kernel exists for. Larger ones load values and offsets less often, but of a larger tile fewer channels
// lie in the cache, or fewer entries come together in a round; 8 places are the measured best.
#define REWIRE_TILES(DO) DO(1, 1) DO(1, 2) DO(1, 4) DO(1, 8) DO(2, 2) DO(2, 4) DO(4, 2)

template <class Use>
inline void each_tile(const Use& use) {
#define REWIRE_USE(h, w) use(h, w);
  REWIRE_TILES(REWIRE_USE)
#undef REWIRE_USE
}

// Chooses the tile and the block of channels of a pass with about so many entries.
inline void choose_tile(Pass& pass, int64_t entries) {
  int64_t best = -1;
  each_tile([&](int64_t h, int64_t w) {
    int64_t tiles = ((pass.output.height + h - 1) / h) * ((pass.output.width + w - 1) / w);
    int64_t rows = (h - 1) * pass.step + pass.kernel_h, columns = (w - 1) * pass.step + pass.kernel_w;
    // For h * w multiply-adds a value and an offset are loaded; a short row costs as much as three more places.
    int64_t cost = tiles * (64 * (h * w + 2) + rows * (columns + 3));
    if (best < 0 || cost <= best) best = cost, pass.tile_h = h, pass.tile_w = w;
  });
  pass.planes_h = std::min(pass.step, pass.kernel_h);
  pass.planes_w = std::min(pass.step, pass.kernel_w);
  pass.plane_h = pass.tile_h + (pass.kernel_h - 1) / pass.step;
  pass.plane_w = pass.tile_w + (pass.kernel_w - 1) / pass.step;
  const int64_t channels = std::max<int64_t>(1, pass.input.channels), bytes = channels * pass.groups() * GROUP * 4;
  const int64_t outputs = std::max<int64_t>(1, pass.output.channels), sums = outputs * pass.tile_h * pass.tile_w * GROUP * 4;
  const int64_t worth = sums <= SUMS_NEAR ? ENTRIES_NEAR : ENTRIES_FAR;
  int64_t rounds = std::min(entries / worth / outputs, bytes / SCRATCH_NEAR);
  rounds = std::clamp(rounds, std::min(channels, (bytes + SCRATCH_MOST - 1) / SCRATCH_MOST), channels);
  pass.block = (channels + rounds - 1) / rounds;
}

// A pass whose outputs read one place each: every place of the layer, whether it differs in image, row or column.
inline Pass pointwise_pass(int64_t blocks, int64_t places, int64_t in, int64_t out, int64_t entries) {
  Pass pass{};
  pass.step = pass.kernel_h = pass.kernel_w = 1;
  if (places == 1) {  // the places of a tile are images
    pass.images = 1;
    pass.input = {in, 1, blocks, 0, 1, 0, in, 0};
    pass.output = {out, 1, blocks, 0, 1, 0, out, 0};
  } else if (places < GROUP) {
    pass.images = 1;
    pass.input = {in, blocks, places, 0, places, in * places, 1, 0};
    pass.output = {out, blocks, places, 0, places, out * places, 1, 0};
  } else {
    pass.images = blocks;
    pass.input = {in, 1, places, in * places, places, 0, 1, 0};
    pass.output = {out, 1, places, out * places, places, 0, 1, 0};
  }
  choose_tile(pass, entries);
  return pass;
}

inline Pass forward_pass(const Layer& l) {
  if (l.unrolled()) {
    Pass pass = pointwise_pass(l.blocks, 1, l.in * l.height * l.width, l.out * l.out_h * l.out_w,
                              l.entries());
    pass.per_bias = l.out_h * l.out_w;
    return pass;
  }
  if (l.pointwise()) return pointwise_pass(l.blocks, l.height * l.width, l.in, l.out, l.entries());
  Pass pass{};
  pass.images = l.blocks;
  int64_t in_map = l.height * l.width, out_map = l.out_h * l.out_w;
  pass.input = {l.in, l.height, l.width, l.in * in_map, in_map, l.width, 1, 0};
  pass.output = {l.out, l.out_h, l.out_w, l.out * out_map, out_map, l.out_w, 1, 0};
  pass.step = l.stride;
  pass.kernel_h = l.kernel_h, pass.kernel_w = l.kernel_w, pass.top = l.pad_h, pass.left = l.pad_w;
  choose_tile(pass, l.entries());
  return pass;
}

// Of one side of the input, the places = parity (mod stride): the lowest and highest shift, in places of the output
// divided by stride, at which they are met; {0, -1} where none is.
inline std::pair<int64_t, int64_t> shifts(int64_t kernel, int64_t stride, int64_t pad, int64_t parity) {
  int64_t low = 0, high = -1;
  for (int64_t k = kernel - 1; k >= 0; --k) {
    if ((parity + pad - k) % stride) continue;
    int64_t shift = (parity + pad - k) / stride;
    if (high < low) low = shift;
    high = shift;
  }
  return {low, high};
}

inline std::vector<Pass> backward_passes(const Layer& l) {
  std::vector<Pass> passes;
  if (l.unrolled()) {
    passes.push_back(pointwise_pass(l.blocks, 1, l.out * l.out_h * l.out_w, l.in * l.height * l.width, l.entries()));
    return passes;
  }
  if (l.pointwise()) {
    passes.push_back(pointwise_pass(l.blocks, l.height * l.width, l.out, l.in, l.entries()));
    return passes;
  }
  int64_t in_map = l.height * l.width, out_map = l.out_h * l.out_w;
  for (int64_t y = 0; y < l.stride; ++y) {
    for (int64_t x = 0; x < l.stride; ++x) {
      auto [low_h, high_h] = shifts(l.kernel_h, l.stride, l.pad_h, y);
      auto [low_w, high_w] = shifts(l.kernel_w, l.stride, l.pad_w, x);
      Pass pass{};
      pass.images = l.blocks;
      pass.input = {l.out, l.out_h, l.out_w, l.out * out_map, out_map, l.out_w, 1, 0};
      int64_t high = std::max<int64_t>(0, (l.height - y + l.stride - 1) / l.stride);
      int64_t wide = std::max<int64_t>(0, (l.width - x + l.stride - 1) / l.stride);
      pass.output = {l.in, high, wide, l.in * in_map, in_map, l.width * l.stride, l.stride, y * l.width + x};
      pass.step = 1;
      pass.kernel_h = std::max<int64_t>(1, high_h - low_h + 1), pass.kernel_w = std::max<int64_t>(1, high_w - low_w + 1);
      pass.top = -low_h, pass.left = -low_w;
      choose_tile(pass, l.entries() / (l.stride * l.stride));
      passes.push_back(pass);
    }
  }
  return passes;
}
