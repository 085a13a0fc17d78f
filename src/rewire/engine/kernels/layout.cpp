// Into the blocked layout and out of it. Both are transposes of 16 images by 16 places (or 16 channels), in registers.
#include <algorithm>

#include "parallel.h"
#include "rewire.h"
#include "vector.h"

namespace {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define REWIRE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef REWIRE_SHUFFLE  // GCC before 12
typedef int32_t Indices __attribute__((vector_size(LANES * sizeof(int32_t))));
#define REWIRE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Indices{__VA_ARGS__})
#endif

#if defined(__AVX512F__)
#define REWIRE_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define REWIRE_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define REWIRE_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define REWIRE_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define REWIRE_LOW 0, 4, 1, 5
#define REWIRE_HIGH 2, 6, 3, 7
#endif

// to[c * to_stride + r] = from[r * from_stride + c] for r, c < 16. A round of interleaving the lower with the upper half
// of the rows moves one bit of the row's number into the column's; log2(LANES) rounds swap the two.
inline void transpose_whole(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int row = 0; row < GROUP; row += LANES) {
    for (int column = 0; column < GROUP; column += LANES) {
      Vector rows[LANES], next[LANES];
      for (int i = 0; i < LANES; ++i) rows[i] = load(from + (row + i) * from_stride + column);
      for (int round = 1; round < LANES; round *= 2) {
        for (int i = 0; i < LANES / 2; ++i) {
          next[2 * i] = REWIRE_SHUFFLE(rows[i], rows[i + LANES / 2], REWIRE_LOW);
          next[2 * i + 1] = REWIRE_SHUFFLE(rows[i], rows[i + LANES / 2], REWIRE_HIGH);
        }
        for (int i = 0; i < LANES; ++i) rows[i] = next[i];
      }
      for (int i = 0; i < LANES; ++i) store(to + (column + i) * to_stride + row, rows[i]);
    }
  }
}

// The same for `rows` by `columns` of them; of every row of `to`, `wide` >= rows elements are written, those past
// `rows` as 0.
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride,
               int64_t wide) {
  if (rows == GROUP && columns == GROUP) return transpose_whole(from, from_stride, to, to_stride);
  float before[GROUP * GROUP] = {}, after[GROUP * GROUP];
  for (int64_t r = 0; r < rows; ++r) std::memcpy(before + r * GROUP, from + r * from_stride, columns * sizeof(float));
  transpose_whole(before, GROUP, after, GROUP);
  for (int64_t c = 0; c < columns; ++c) std::memcpy(to + c * to_stride, after + c * GROUP, wide * sizeof(float));
}

// An ordinary tensor (rows, channels, height, width) by its strides, beside the blocked one.
struct Ordinary {
  int64_t rows, channels, height, width, stride_n, stride_c, stride_y, stride_x;

  int64_t places() const { return height * width; }
  int64_t blocks() const { return (rows + GROUP - 1) / GROUP; }
  int64_t images(int64_t block) const { return std::min<int64_t>(GROUP, rows - block * GROUP); }

  // An image is one run of memory, in the order of the layout.
  bool image_contiguous() const {
    return (width == 1 || stride_x == 1) && (height == 1 || stride_y == width) && (channels == 1 || stride_c == places());
  }
  bool channels_last() const { return stride_c == 1 || channels == 1; }
};

// Calls unit(number) for this thread's share of `units` pieces of work.
template <class Unit>
void split(int64_t units, int threads, const Unit& unit) {
  parallel(threads, [&](int thread, int team) {
    for (int64_t u = units * thread / team; u < units * (thread + 1) / team; ++u) unit(u);
  });
}

// Calls tile(block, images, ordinary, ordinary stride, blocked, blocked stride, count) for runs of at most 16 elements
// of an image that are neighbours in the ordinary tensor; offsets and strides are those of the first image, in floats.
template <class Tile>
void each_tile(const Ordinary& o, int threads, const Tile& tile) {
  const int64_t places = o.places(), image = o.channels * places;
  if (o.image_contiguous()) {
    constexpr int64_t RUN = 64;  // tiles of a unit of work
    const int64_t tiles = (image + GROUP - 1) / GROUP, runs = (tiles + RUN - 1) / RUN;
    split(o.blocks() * runs, threads, [&](int64_t unit) {
      const int64_t block = unit / runs, first = unit % runs * RUN;
      for (int64_t t = first; t < std::min(tiles, first + RUN); ++t) {
        tile(block, block * GROUP * o.stride_n + t * GROUP, (block * image + t * GROUP) * GROUP, GROUP,
             std::min<int64_t>(GROUP, image - t * GROUP));
      }
    });
  } else {  // channels last
    const int64_t groups = (o.channels + GROUP - 1) / GROUP;
    split(o.blocks() * groups * o.height, threads, [&](int64_t unit) {
      const int64_t block = unit / (groups * o.height), channel = unit / o.height % groups * GROUP, y = unit % o.height;
      for (int64_t x = 0; x < o.width; ++x) {
        const int64_t place = y * o.width + x;
        tile(block, block * GROUP * o.stride_n + channel * o.stride_c + y * o.stride_y + x * o.stride_x,
             (block * image + channel * places + place) * GROUP, places * GROUP,
             std::min<int64_t>(GROUP, o.channels - channel));
      }
    });
  }
}

// Calls row(first image's offset, blocked offset, images) for every group of 16 lanes, whatever the strides.
template <class Row>
void each_row(const Ordinary& o, int threads, const Row& row) {
  split(o.blocks() * o.channels * o.height, threads, [&](int64_t unit) {
    const int64_t block = unit / (o.channels * o.height), channel = unit / o.height % o.channels, y = unit % o.height;
    for (int64_t x = 0; x < o.width; ++x) {
      row(block * GROUP * o.stride_n + channel * o.stride_c + y * o.stride_y + x * o.stride_x,
          (unit * o.width + x) * GROUP, o.images(block));
    }
  });
}

}  // namespace

void rw_block(int64_t rows, int64_t channels, int64_t height, int64_t width, int64_t stride_n, int64_t stride_c,
              int64_t stride_y, int64_t stride_x, const float* x, float* y, int threads) {
  const Ordinary o{rows, channels, height, width, stride_n, stride_c, stride_y, stride_x};
  if (o.image_contiguous() || o.channels_last()) {
    each_tile(o, threads, [&](int64_t block, int64_t from, int64_t to, int64_t to_stride, int64_t count) {
      transpose(x + from, o.stride_n, o.images(block), count, y + to, to_stride, GROUP);
    });
  } else {
    each_row(o, threads, [&](int64_t from, int64_t to, int64_t images) {
      for (int64_t n = 0; n < GROUP; ++n) y[to + n] = n < images ? x[from + n * o.stride_n] : 0;
    });
  }
}

void rw_unblock(int64_t rows, int64_t channels, int64_t height, int64_t width, int64_t stride_n, int64_t stride_c,
                int64_t stride_y, int64_t stride_x, const float* x, float* y, int threads) {
  const Ordinary o{rows, channels, height, width, stride_n, stride_c, stride_y, stride_x};
  if (o.image_contiguous() || o.channels_last()) {
    each_tile(o, threads, [&](int64_t block, int64_t to, int64_t from, int64_t from_stride, int64_t count) {
      transpose(x + from, from_stride, count, o.images(block), y + to, o.stride_n, count);
    });
  } else {
    each_row(o, threads, [&](int64_t to, int64_t from, int64_t images) {
      for (int64_t n = 0; n < images; ++n) y[to + n * o.stride_n] = x[from + n];
    });
  }
}
