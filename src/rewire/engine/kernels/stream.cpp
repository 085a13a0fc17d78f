// Streams: for every round of input channels and every output, the active weights as (offset into the scratch, which
// value). They change only with the topology and are built by counting.
#include <cstring>
#include <vector>

#include "geometry.h"
#include "rewire.h"

namespace {

// Calls use(pass, input channel, output, row, column) for every entry of the weight at a flat position.
template <class Use>
void forward_entries(const Layer& l, int64_t position, const Use& use) {
  int64_t kx = position % l.kernel_w, ky = position / l.kernel_w % l.kernel_h;
  int64_t i = position / (l.kernel_w * l.kernel_h) % l.in, o = position / (l.kernel_w * l.kernel_h * l.in);
  if (!l.unrolled()) return use(0, i, o, ky, kx);
  for (int64_t oy = 0; oy < l.out_h; ++oy) {
    for (int64_t ox = 0; ox < l.out_w; ++ox) {
      int64_t y = oy * l.stride + ky - l.pad_h, x = ox * l.stride + kx - l.pad_w;
      if (y < 0 || y >= l.height || x < 0 || x >= l.width) continue;
      use(0, (i * l.height + y) * l.width + x, (o * l.out_h + oy) * l.out_w + ox, 0, 0);
    }
  }
}

template <class Use>
void backward_entries(const Layer& l, const std::vector<Pass>& passes, int64_t position, const Use& use) {
  if (l.unrolled() || l.pointwise()) {
    return forward_entries(l, position, [&](int64_t p, int64_t i, int64_t o, int64_t, int64_t) { use(p, o, i, 0, 0); });
  }
  int64_t kx = position % l.kernel_w, ky = position / l.kernel_w % l.kernel_h;
  int64_t i = position / (l.kernel_w * l.kernel_h) % l.in, o = position / (l.kernel_w * l.kernel_h * l.in);
  for (int64_t y = 0; y < l.stride; ++y) {
    for (int64_t x = 0; x < l.stride; ++x) {
      if ((y + l.pad_h - ky) % l.stride || (x + l.pad_w - kx) % l.stride) continue;
      int64_t p = y * l.stride + x;
      use(p, o, i, (y + l.pad_h - ky) / l.stride + passes[p].top, (x + l.pad_w - kx) / l.stride + passes[p].left);
    }
  }
}

// Counts, then places: entries of one (round, output) lie together, in the order of their positions.
template <class Each>
void build(const std::vector<Pass>& passes, int64_t count, const Each& each, int32_t* pointers, uint16_t* offsets,
           int32_t* order) {
  std::vector<int64_t> first;  // of each pass, in pointers
  int64_t total = 0;
  for (const Pass& pass : passes) first.push_back(total), total += pass.pointers();
  std::memset(pointers, 0, total * sizeof(int32_t));
  auto slot = [&](int64_t p, int64_t channel, int64_t output) {
    return first[p] + channel / passes[p].block * passes[p].output.channels + output;
  };
  for (int64_t k = 0; k < count; ++k) {
    each(k, [&](int64_t p, int64_t channel, int64_t output, int64_t, int64_t) { ++pointers[slot(p, channel, output)]; });
  }
  int32_t sum = 0;
  std::vector<int32_t> next(total);
  for (int64_t s = 0; s < total; ++s) {  // the last of each pass counts nothing and so becomes its end
    int32_t here = pointers[s];
    pointers[s] = next[s] = sum;
    sum += here;
  }
  for (int64_t k = 0; k < count; ++k) {
    each(k, [&](int64_t p, int64_t channel, int64_t output, int64_t row, int64_t column) {
      int32_t place = next[slot(p, channel, output)]++;
      offsets[place] = static_cast<uint16_t>(passes[p].offset(channel, row, column));
      order[place] = static_cast<int32_t>(k);
    });
  }
}

}  // namespace

void rw_stream_sizes(const int64_t* layer, const int32_t* index, int64_t* sizes) {
  Layer l(layer);
  std::vector<Pass> passes = backward_passes(l);
  sizes[0] = sizes[2] = 0;
  for (int64_t k = 0; k < l.count; ++k) {
    forward_entries(l, index[k], [&](int64_t, int64_t, int64_t, int64_t, int64_t) { ++sizes[0]; });
    backward_entries(l, passes, index[k], [&](int64_t, int64_t, int64_t, int64_t, int64_t) { ++sizes[2]; });
  }
  sizes[1] = forward_pass(l).pointers();
  sizes[3] = 0;
  for (const Pass& pass : passes) sizes[3] += pass.pointers();
}

void rw_stream_build(const int64_t* layer, const int32_t* index, int32_t* forward_pointers,
                     uint16_t* forward_offsets, int32_t* forward_order, int32_t* backward_pointers,
                     uint16_t* backward_offsets, int32_t* backward_order) {
  Layer l(layer);
  std::vector<Pass> forward{forward_pass(l)}, backward = backward_passes(l);
  build(forward, l.count, [&](int64_t k, auto use) { forward_entries(l, index[k], use); }, forward_pointers,
        forward_offsets, forward_order);
  build(backward, l.count, [&](int64_t k, auto use) { backward_entries(l, backward, index[k], use); }, backward_pointers,
        backward_offsets, backward_order);
}
