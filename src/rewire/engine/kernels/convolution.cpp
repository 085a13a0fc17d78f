// The three products of a sparse layer. In each, a thread takes tiles of the output: it copies the part of the input that
// a tile needs into its scratch, a round of channels at a time, and then runs through the stream with the tile's places in
// registers: one value or dot product, tile_h * tile_w multiply-adds whose other operand comes from the first-level cache.
//
// The copy is a need and not an optimisation: channels lie a power of two apart and would fall into the same cache sets.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "geometry.h"
#include "parallel.h"
#include "rewire.h"

namespace {

constexpr int PARTS = GROUP / LANES;  // native vectors in a group of lanes

// What a thread needs room for. The memory stays with the thread from call to call: to ask the system anew costs more than
// a small layer.
enum Room { SCRATCH, SPILL, VALUES, SUMS, ROOMS };

// Returns room for so many floats, aligned so that no load of a group crosses a cache line. It holds until the same thread
// asks for the same room again.
float* room(Room which, int64_t floats) {
  struct Memory {
    float* start = nullptr;
    int64_t floats = 0;
    ~Memory() { std::free(start); }
  };
  thread_local Memory rooms[ROOMS];
  Memory& memory = rooms[which];
  if (memory.floats < floats) {
    std::free(memory.start);
    memory.floats = (floats + GROUP - 1) / GROUP * GROUP;
    memory.start = static_cast<float*>(std::aligned_alloc(64, memory.floats * sizeof(float)));
  }
  return memory.start;
}

inline void copy_groups(float* to, const float* from, int64_t groups) {
  for (int64_t k = 0; k < groups * PARTS; ++k) store(to + k * LANES, load(from + k * LANES));
}

// The same where ReLU, whose results are y, lets a gradient by.
inline void copy_passing(float* to, const float* from, const float* y, int64_t groups) {
  for (int64_t k = 0; k < groups * PARTS; ++k) store(to + k * LANES, only(passes(load(y + k * LANES)), load(from + k * LANES)));
}

inline void zero_groups(float* to, int64_t groups) {
  for (int64_t k = 0; k < groups * PARTS; ++k) store(to + k * LANES, Vector{});
}

// One tile of a pass.
struct Tile {
  int64_t image, y, x;  // first place of the output

  Tile(const Pass& pass, int64_t unit) {
    int64_t wide = pass.tiles_w(), high = pass.tiles_h();
    x = unit % wide * pass.tile_w, y = unit / wide % high * pass.tile_h, image = unit / (wide * high);
  }
};

// Copies what the tile reads of channels [begin, end) into the scratch; zero outside of the map. With y, x is a gradient of
// what a ReLU made of it, y.
void pack(const Pass& pass, const Tile& tile, const float* x, const float* y, int64_t begin, int64_t end, float* scratch) {
  const Plane& in = pass.input;
  auto copy = [&](float* to, const float* from, int64_t groups) {
    y ? copy_passing(to, from, y + (from - x), groups) : copy_groups(to, from, groups);
  };
  for (int64_t c = begin; c < end; ++c) {
    const float* channel = x + (in.start + tile.image * in.stride_n + c * in.stride_c) * GROUP;
    for (int64_t py = 0; py < pass.planes_h; ++py) {
      for (int64_t px = 0; px < pass.planes_w; ++px) {
        int64_t left = tile.x * pass.step - pass.left + px;  // column of the first place of the plane
        // Columns [first, last) of the plane lie in the map.
        int64_t first = left < 0 ? (-left + pass.step - 1) / pass.step : 0;
        int64_t last = std::min(pass.plane_w, (in.width - left + pass.step - 1) / pass.step);
        first = std::min(first, pass.plane_w), last = std::max(last, first);
        for (int64_t row = 0; row < pass.plane_h; ++row) {
          int64_t y_in = (tile.y + row) * pass.step - pass.top + py;
          if (y_in < 0 || y_in >= in.height || first == last) {
            zero_groups(scratch, pass.plane_w);
          } else {
            const float* from = channel + (y_in * in.stride_y + left * in.stride_x) * GROUP;
            int64_t apart = pass.step * in.stride_x;
            zero_groups(scratch, first);
            if (apart == 1) {
              copy(scratch + first * GROUP, from + first * GROUP, last - first);
            } else {
              for (int64_t k = first; k < last; ++k) copy(scratch + k * GROUP, from + k * apart * GROUP, 1);
            }
            zero_groups(scratch + last * GROUP, pass.plane_w - last);
          }
          scratch += pass.plane_w * GROUP;
        }
      }
    }
  }
}

// Whether the input of a pass lies in memory rather than in the second-level cache, so that it pays to fetch it ahead.
inline bool far_away(const Pass& pass) {
  return pass.images * pass.input.channels * pass.input.height * pass.input.width * GROUP * 4 > (1 << 20);
}

// Of one side of the map, the places that a tile is copied from.
struct Span {
  int64_t first, count, apart;

  Span(int64_t start, int64_t plane, int64_t planes, int64_t step, int64_t side) : apart(planes < step ? step : 1) {
    first = start < 0 ? start + (-start + apart - 1) / apart * apart : start;
    count = (std::min(side, start + (plane - 1) * step + planes) - first + apart - 1) / apart;
  }
};

// What the next copy into the scratch will read. It is fetched into the second-level cache while the kernels compute from
// this one, some channels with every output; the copy alone would wait for memory at every channel.
class Ahead {
 public:
  Ahead() = default;  // nothing
  Ahead(const Pass& pass, const Tile& tile, int64_t round, const float* x, const float* y, int64_t outputs)
      : outputs_(outputs), channel_(round * pass.block),
        channels_(std::min(pass.block, pass.input.channels - channel_)), x_(x), y_(y) {
    const Plane& in = pass.input;
    const Span rows(tile.y * pass.step - pass.top, pass.plane_h, pass.planes_h, pass.step, in.height);
    const Span columns(tile.x * pass.step - pass.left, pass.plane_w, pass.planes_w, pass.step, in.width);
    start_ = in.start + tile.image * in.stride_n + rows.first * in.stride_y + columns.first * in.stride_x;
    rows_ = rows.count, row_ = rows.apart * in.stride_y;
    columns_ = columns.count, column_ = columns.apart * in.stride_x;
    stride_ = in.stride_c;
  }

  void output() {  // to be called with every output
    for (due_ += channels_; due_ >= outputs_; due_ -= outputs_, ++channel_) {
      for (int64_t row = 0; row < rows_; ++row)
        for (int64_t column = 0; column < columns_; ++column) {
          const int64_t at = (start_ + channel_ * stride_ + row * row_ + column * column_) * GROUP;
          fetch(x_ + at);
          if (y_) fetch(y_ + at);
        }
    }
  }

 private:
  int64_t outputs_ = 1, channel_ = 0, channels_ = 0, due_ = 0;
  int64_t start_ = 0, stride_ = 0, rows_ = 0, row_ = 0, columns_ = 0, column_ = 0;  // strides in groups
  const float *x_ = nullptr, *y_ = nullptr;
};

// Where the places of a tile lie; strides in floats.
struct Places {
  float* start;
  int64_t channel, row, column;
};

inline Places places_of(const Pass& pass, const Tile& tile, float* y) {
  const Plane& out = pass.output;
  int64_t start = out.start + tile.image * out.stride_n + tile.y * out.stride_y + tile.x * out.stride_x;
  return {y + start * GROUP, out.stride_c * GROUP, out.stride_y * GROUP, out.stride_x * GROUP};
}

inline bool inside(const Pass& pass, const Tile& tile) {
  return tile.y + pass.tile_h <= pass.output.height && tile.x + pass.tile_w <= pass.output.width;
}

struct Entries {
  const int32_t* pointers;
  const uint16_t* offsets;
};

// Adds to the outputs [begin, end) of a tile what one round of channels gives: to = bias in the first round, `from` in the
// others, plus the round. With `past` the results go past the caches, which would only read and lose them again.
template <int TH, int TW, int WIDE>
void add_round(const Pass& pass, const float* scratch, const Entries& entries, const float* values, const float* bias,
               int64_t begin, int64_t end, int64_t round, const Places& from, const Places& to, bool past, bool relu,
               Ahead& ahead) {
  const int64_t row = (WIDE ? WIDE : pass.plane_w) * GROUP;
  const int32_t* pointers = entries.pointers + round * pass.output.channels;
  for (int64_t o = begin; o < end; ++o) {
    ahead.output();
    const int32_t first = pointers[o], last = pointers[o + 1];
    if (round > 0 && first == last && from.start == to.start && !relu) continue;
    for (int part = 0; part < PARTS; ++part) {
      // Half of the entries have sums of their own, every other one where there are registers for both: two short sums
      // round less than a long one.
      constexpr bool two = 2 * TH * TW + 4 <= REGISTERS;
      Vector sums[TH][TW] = {}, others[TH][TW] = {};
      const float* base = scratch + part * LANES;
      auto add = [&](int32_t k, Vector (&to)[TH][TW]) {
        const float* tap = base + entries.offsets[k] * GROUP;
        const Vector value = broadcast(values[k]);
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) to[y][x] += value * load(tap + y * row + x * GROUP);
      };
      int32_t k = first;
      if (two) {
        for (; k + 2 <= last; k += 2) add(k, sums), add(k + 1, others);
      } else {
        for (const int32_t half = first + (last - first) / 2; k < half; ++k) add(k, others);
      }
      for (; k < last; ++k) add(k, sums);
      for (int y = 0; y < TH; ++y)
        for (int x = 0; x < TW; ++x) sums[y][x] += others[y][x];
      // The sum of a round joins those before it, instead of going on from them, for the same reason.
      if (round == 0) {
        const Vector start = broadcast(bias ? bias[o / pass.per_bias] : 0.0f);
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) sums[y][x] += start;
      } else {
        const float* in = from.start + o * from.channel + part * LANES;
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) sums[y][x] += load(in + y * from.row + x * from.column);
      }
      if (relu) {
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) sums[y][x] = positive(sums[y][x]);
      }
      float* out = to.start + o * to.channel + part * LANES;
      if (past) {
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) store_past(out + y * to.row + x * to.column, sums[y][x]);
      } else {
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x) store(out + y * to.row + x * to.column, sums[y][x]);
      }
    }
  }
}

#if defined(__AVX512F__)
// Returns the sums of the lanes of four vectors.
inline void add_lanes(const Vector (&v)[4], float* to) {
  typedef float Four __attribute__((vector_size(16)));
  Vector ab = __builtin_shufflevector(v[0], v[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
              __builtin_shufflevector(v[0], v[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  Vector cd = __builtin_shufflevector(v[2], v[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
              __builtin_shufflevector(v[2], v[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  Vector abcd = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  abcd += __builtin_shufflevector(abcd, abcd, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  abcd += __builtin_shufflevector(abcd, abcd, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  Four sums = __builtin_shufflevector(abcd, abcd, 0, 4, 8, 12), old;
  std::memcpy(&old, to, sizeof old);
  sums += old;
  std::memcpy(to, &sums, sizeof sums);
}
#else
inline void add_lanes(const Vector (&v)[4], float* to) {
  for (int k = 0; k < 4; ++k) {
    float sum = 0;
    for (int lane = 0; lane < LANES; ++lane) sum += v[k][lane];
    to[k] += sum;
  }
}
#endif

constexpr int64_t SOON = 4;  // outputs from this one, the gradients of one are fetched

// Adds to the gradients of the entries of outputs [begin, end) what one tile and one round of channels give.
template <int TH, int TW, int WIDE>
void add_dots(const Pass& pass, const float* scratch, const Entries& entries, int64_t begin, int64_t end, int64_t round,
              const Places& from, const Places& through, float* grad, bool far, Ahead& ahead) {
  const int64_t row = (WIDE ? WIDE : pass.plane_w) * GROUP;
  const int32_t* pointers = entries.pointers + round * pass.output.channels;
  for (int64_t o = begin; o < end; ++o) {
    ahead.output();
    const int32_t first = pointers[o], last = pointers[o + 1];
    const float* out = from.start + o * from.channel;
    const float* seen = through.start ? through.start + o * through.channel : nullptr;
    if (far && round == 0 && o + SOON < end) {
      for (int y = 0; y < TH; ++y)
        for (int x = 0; x < TW; ++x) {
          fetch(out + SOON * from.channel + y * from.row + x * from.column);
          if (seen) fetch(seen + SOON * through.channel + y * through.row + x * through.column);
        }
    }
    if (first == last) continue;
    for (int part = 0; part < PARTS; ++part) {
      Vector dy[TH][TW];
      for (int y = 0; y < TH; ++y)
        for (int x = 0; x < TW; ++x) dy[y][x] = load(out + y * from.row + x * from.column + part * LANES);
      if (seen) {
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x)
            dy[y][x] = only(passes(load(seen + y * through.row + x * through.column + part * LANES)), dy[y][x]);
      }
      const float* base = scratch + part * LANES;
      int32_t k = first;
      for (; k + 4 <= last; k += 4) {  // four entries side by side hide the latency of the multiply-add
        Vector sums[4] = {};
        const float* tap[4];
        for (int e = 0; e < 4; ++e) tap[e] = base + entries.offsets[k + e] * GROUP;
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x)
            for (int e = 0; e < 4; ++e) sums[e] += dy[y][x] * load(tap[e] + y * row + x * GROUP);
        add_lanes(sums, grad + k);
      }
      if (k < last) {  // the rest reads the first entry again and throws the sums away
        Vector sums[4] = {};
        float rest[4] = {};
        const float* tap[4];
        for (int e = 0; e < 4; ++e) tap[e] = base + entries.offsets[k + e < last ? k + e : k] * GROUP;
        for (int y = 0; y < TH; ++y)
          for (int x = 0; x < TW; ++x)
            for (int e = 0; e < 4; ++e) sums[e] += dy[y][x] * load(tap[e] + y * row + x * GROUP);
        add_lanes(sums, rest);
        for (int e = 0; k + e < last; ++e) grad[k + e] += rest[e];
      }
    }
  }
}

using AddRound = void (*)(const Pass&, const float*, const Entries&, const float*, const float*, int64_t, int64_t,
                          int64_t, const Places&, const Places&, bool, bool, Ahead&);
using AddDots = void (*)(const Pass&, const float*, const Entries&, int64_t, int64_t, int64_t, const Places&, const Places&,
                         float*, bool, Ahead&);

// The kernels know the width of a plane at compile time where the layer is a common one, so that every address is one
// register and a constant: kernel 1, kernel 3, kernel 3 with stride 2. Others read it (0).
#define REWIRE_BY_WIDTH(kernel, h, w)                                             \
  if (pass.tile_h == h && pass.tile_w == w) {                                     \
    if (h == 1 || pass.plane_w == w) return kernel<h, w, w>;                      \
    if (pass.plane_w == w + 1) return kernel<h, w, w + 1>;                        \
    return pass.plane_w == w + 2 ? kernel<h, w, w + 2> : kernel<h, w, 0>;         \
  }

AddRound add_round_of(const Pass& pass) {
#define REWIRE_CASE(h, w) REWIRE_BY_WIDTH(add_round, h, w)
  REWIRE_TILES(REWIRE_CASE)
#undef REWIRE_CASE
  return nullptr;
}

AddDots add_dots_of(const Pass& pass) {
#define REWIRE_CASE(h, w) REWIRE_BY_WIDTH(add_dots, h, w)
  REWIRE_TILES(REWIRE_CASE)
#undef REWIRE_CASE
  return nullptr;
}

// Copies the places of a tile that lie in the map, between a whole tile of its own and the map.
template <class Copy>
void each_place(const Pass& pass, const Tile& tile, int64_t begin, int64_t end, const Places& map, const Places& whole,
                const Copy& copy) {
  for (int64_t o = begin; o < end; ++o)
    for (int64_t y = 0; y < pass.tile_h; ++y)
      for (int64_t x = 0; x < pass.tile_w; ++x) {
        bool there = tile.y + y < pass.output.height && tile.x + x < pass.output.width;
        copy(there, map.start + o * map.channel + y * map.row + x * map.column,
             whole.start + o * whole.channel + y * whole.row + x * whole.column);
      }
}

inline Places whole_tile(const Pass& pass, float* memory) {
  return {memory, pass.tile_h * pass.tile_w * GROUP, pass.tile_w * GROUP, GROUP};
}

inline int64_t share(int64_t count, int64_t part, int64_t parts) { return count * part / parts; }

// Work is split by tiles, and where there are too few of them also by outputs; each thread packs what it needs.
struct Split {
  int64_t units, parts;

  Split(const Pass& pass, int threads) : units(pass.units()), parts(1) {
    if (threads > 1 && units < 4 * threads) parts = std::min<int64_t>((4 * threads + units - 1) / units, pass.output.channels);
  }
  int64_t work() const { return units * parts; }
};

// relu: of the results. through: results of the ReLU whose gradient x is, or null.
void run_pass(const Pass& pass, const float* x, const float* through, const Entries& entries, const float* values,
              const float* bias, bool relu, float* y, int threads) {
  if (pass.units() == 0 || pass.output.channels == 0) return;
  const AddRound add = add_round_of(pass);
  const Split split(pass, threads);
  const bool empty = entries.pointers[0] == entries.pointers[pass.pointers() - 1];
  const int64_t rounds = empty ? 1 : pass.rounds();
  const bool far = !empty && far_away(pass);
  const bool past = worth_past(y, pass.units() * pass.tile_h * pass.tile_w * pass.output.channels * GROUP);
  parallel(threads, [&](int thread, int count) {
    float* const scratch = room(SCRATCH, pass.block * pass.groups() * GROUP);
    float* const spill = room(SPILL, pass.output.channels * pass.tile_h * pass.tile_w * GROUP);
    const Places between = whole_tile(pass, spill);  // rounds
    const int64_t until = share(split.work(), thread + 1, count);
    for (int64_t w = share(split.work(), thread, count); w < until; ++w) {
      const Tile tile(pass, w / split.parts);
      const int64_t begin = share(pass.output.channels, w % split.parts, split.parts);
      const int64_t end = share(pass.output.channels, w % split.parts + 1, split.parts);
      const Places map = places_of(pass, tile, y);
      const bool whole = inside(pass, tile);
      for (int64_t round = 0; round < rounds; ++round) {
        const int64_t channel = round * pass.block;
        const bool done = whole && round + 1 == rounds;
        if (!empty) pack(pass, tile, x, through, channel, std::min(channel + pass.block, pass.input.channels), scratch);
        const bool last = round + 1 == rounds;
        Ahead ahead;
        if (far && !last) ahead = Ahead(pass, tile, round + 1, x, through, end - begin);
        if (far && last && w + 1 < until) ahead = Ahead(pass, Tile(pass, (w + 1) / split.parts), 0, x, through, end - begin);
        add(pass, scratch, entries, values, bias, begin, end, round, between, done ? map : between, done && past,
            last && relu, ahead);
      }
      if (!whole) {
        each_place(pass, tile, begin, end, map, between, [](bool there, float* in_map, const float* of_tile) {
          if (there) copy_groups(in_map, of_tile, 1);
        });
      }
    }
    if (past) finish_past();
  });
}

// values[order[k]] for every entry k, in the order in which the kernels read them.
float* gather(const float* values, const int32_t* order, int64_t count) {
  float* to = room(VALUES, count);
  for (int64_t k = 0; k < count; ++k) to[k] = values[order[k]];
  return to;
}

}  // namespace

void rw_forward(const int64_t* layer, const float* x, const float* values, const float* bias, const int32_t* pointers,
                const uint16_t* offsets, const int32_t* order, int relu, float* y, int threads) {
  const Pass pass = forward_pass(Layer(layer));
  const int64_t count = pointers[pass.pointers() - 1];
  float* const ordered = gather(values, order, count);
  run_pass(pass, x, nullptr, {pointers, offsets}, ordered, bias, relu, y, threads);
}

void rw_grad_input(const int64_t* layer, const float* dy, const float* y, const float* values, const int32_t* pointers,
                   const uint16_t* offsets, const int32_t* order, float* dx, int threads) {
  const std::vector<Pass> passes = backward_passes(Layer(layer));
  int64_t total = 0;
  for (const Pass& pass : passes) total += pass.pointers();
  const int64_t count = pointers[total - 1];
  float* const ordered = gather(values, order, count);
  for (const Pass& pass : passes) {
    run_pass(pass, dy, y, {pointers, offsets}, ordered, nullptr, false, dx, threads);
    pointers += pass.pointers();
  }
}

void rw_grad_values(const int64_t* layer, const float* x, const float* dy, const float* y, const int32_t* pointers,
                    const uint16_t* offsets, const int32_t* order, float* grad, int threads) {
  const Layer l(layer);
  const Pass pass = forward_pass(l);
  std::memset(grad, 0, l.count * sizeof(float));
  const int64_t entries = pointers[pass.pointers() - 1];
  if (pass.units() == 0 || entries == 0) return;
  const AddDots add = add_dots_of(pass);
  const bool far = far_away(pass);
  const Split split(pass, threads);
  // Split by outputs, no two threads meet at an entry and one array of sums is enough; split by tiles, each has its own.
  const bool own = threads > 1 && split.parts == 1;
  const int64_t arrays = own ? threads : 1;
  float* const sums = room(SUMS, arrays * entries);
  std::memset(sums, 0, arrays * entries * sizeof(float));
  parallel(threads, [&](int thread, int of) {
    float* const scratch = room(SCRATCH, pass.block * pass.groups() * GROUP);
    float* const spill = room(SPILL, pass.output.channels * pass.tile_h * pass.tile_w * GROUP);
    float* mine = sums + (own ? thread * entries : 0);
    const int64_t parts = own || of == 1 ? 1 : of;
    const int64_t begin = share(pass.output.channels, own ? 0 : thread, parts);
    const int64_t end = share(pass.output.channels, own ? 1 : thread + 1, parts);
    const int64_t from = own ? share(split.units, thread, of) : 0, to = own ? share(split.units, thread + 1, of) : split.units;
    for (int64_t unit = from; unit < to; ++unit) {
      const Tile tile(pass, unit);
      const Places map = places_of(pass, tile, const_cast<float*>(dy));
      const bool whole = inside(pass, tile);
      const Places at = whole ? map : whole_tile(pass, spill);
      Places through = y && whole ? places_of(pass, tile, const_cast<float*>(y)) : Places{};
      if (!whole) {
        each_place(pass, tile, begin, end, map, at, [&](bool there, const float* in_map, float* of_tile) {
          if (!there) zero_groups(of_tile, 1);
          else if (y) copy_passing(of_tile, in_map, y + (in_map - dy), 1);
          else copy_groups(of_tile, in_map, 1);
        });
      }
      for (int64_t round = 0; round < pass.rounds(); ++round) {
        const int64_t channel = round * pass.block;
        pack(pass, tile, x, nullptr, channel, std::min(channel + pass.block, pass.input.channels), scratch);
        Ahead ahead;
        const bool last = round + 1 == pass.rounds();
        if (far && !last) ahead = Ahead(pass, tile, round + 1, x, nullptr, end - begin);
        if (far && last && unit + 1 < to) ahead = Ahead(pass, Tile(pass, unit + 1), 0, x, nullptr, end - begin);
        add(pass, scratch, {pointers, offsets}, begin, end, round, at, through, mine, far, ahead);
      }
    }
  });
  for (int64_t a = 0; a < arrays; ++a)
    for (int64_t k = 0; k < entries; ++k) grad[order[k]] += sums[a * entries + k];
}

void rw_grad_bias(const int64_t* layer, const float* dy, const float* y, float* grad, int threads) {
  const Layer l(layer);
  const int64_t floats = l.out_h * l.out_w * GROUP;
  parallel(threads, [&](int thread, int count) {
    const int64_t begin = share(l.out, thread, count), end = share(l.out, thread + 1, count);
    std::vector<double> sums(end - begin, 0.0);
    for (int64_t n = 0; n < l.blocks; ++n) {  // outermost, so that memory is read in its order
      for (int64_t o = begin; o < end; ++o) {
        const float* from = dy + (n * l.out + o) * floats;
        Vector sum = {};
        if (y) {
          const float* seen = y + (from - dy);
          for (int64_t k = 0; k < floats; k += LANES) sum += only(passes(load(seen + k)), load(from + k));
        } else {
          for (int64_t k = 0; k < floats; k += LANES) sum += load(from + k);
        }
        float lanes[LANES];
        store(lanes, sum);
        for (int lane = 1; lane < LANES; ++lane) lanes[0] += lanes[lane];
        sums[o - begin] += lanes[0];
      }
    }
    for (int64_t o = begin; o < end; ++o) grad[o] = static_cast<float>(sums[o - begin]);
  });
}
