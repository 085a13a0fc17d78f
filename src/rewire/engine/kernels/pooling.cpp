// Max and average pooling in the blocked layout: a place of a channel is one group of lanes, so a window is a few groups.
#include <algorithm>
#include <limits>

#include "parallel.h"
#include "rewire.h"
#include "vector.h"

namespace {

typedef int32_t Numbers __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

inline Vector choose(Numbers where, Vector yes, Vector no) {
  return (Vector)(((Numbers)yes & where) | ((Numbers)no & ~where));
}

struct Pooling {
  int64_t planes, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w;

  explicit Pooling(const int64_t* p)
      : planes(p[0]), height(p[1]), width(p[2]), kernel_h(p[3]), kernel_w(p[4]), stride_h(p[5]), stride_w(p[6]),
        pad_h(p[7]), pad_w(p[8]), out_h((height + 2 * pad_h - kernel_h) / stride_h + 1),
        out_w((width + 2 * pad_w - kernel_w) / stride_w + 1) {}

  bool apart() const { return stride_h >= kernel_h && stride_w >= kernel_w; }  // no place lies in two windows
  bool covers() const {                                                        // every place lies in a window
    return stride_h <= kernel_h && stride_w <= kernel_w && (out_h - 1) * stride_h - pad_h + kernel_h >= height &&
           (out_w - 1) * stride_w - pad_w + kernel_w >= width;
  }
};

// A window: the top left corner, which may lie in the padding, and the rows and columns of it that are in the image.
struct Window {
  int64_t top, left, from_y, to_y, from_x, to_x;
};

// Calls use(place of the input's plane, place of the output's plane, window) for this thread's share of the planes.
template <class Start, class Use>
void each_window(const Pooling& p, int threads, const Start& start, const Use& use) {
  parallel(threads, [&](int thread, int team) {
    for (int64_t plane = p.planes * thread / team; plane < p.planes * (thread + 1) / team; ++plane) {
      const int64_t in = plane * p.height * p.width, out = plane * p.out_h * p.out_w;
      start(in);
      for (int64_t oy = 0; oy < p.out_h; ++oy) {
        for (int64_t ox = 0; ox < p.out_w; ++ox) {
          const int64_t top = oy * p.stride_h - p.pad_h, left = ox * p.stride_w - p.pad_w;
          const Window window{top, left, std::max<int64_t>(0, -top), std::min(p.kernel_h, p.height - top),
                              std::max<int64_t>(0, -left), std::min(p.kernel_w, p.width - left)};
          use(in + top * p.width + left, out + oy * p.out_w + ox, window);
        }
      }
    }
  });
}

template <class Use>
void each_window(const Pooling& p, int threads, const Use& use) {
  each_window(p, threads, [](int64_t) {}, use);
}

// Spreads gradient(vector of the output, number in the window) over the windows.
template <class Gradient>
void spread(const Pooling& p, float* dx, int threads, const Gradient& gradient) {
  const bool apart = p.apart(), whole = apart && p.covers();
  auto clear = [&](int64_t in) {
    if (!whole) std::memset(dx + in * GROUP, 0, p.height * p.width * GROUP * sizeof(float));
  };
  each_window(p, threads, clear, [&](int64_t in, int64_t out, const Window& w) {
    for (int lane = 0; lane < GROUP; lane += LANES) {
      const auto part = gradient(out, lane, w);
      for (int64_t ky = w.from_y; ky < w.to_y; ++ky) {
        for (int64_t kx = w.from_x; kx < w.to_x; ++kx) {
          float* to = dx + (in + ky * p.width + kx) * GROUP + lane;
          const Vector value = part(static_cast<int32_t>(ky * p.kernel_w + kx));
          store(to, apart ? value : load(to) + value);
        }
      }
    }
  });
}

inline float share(const Pooling& p, const Window& w, bool include_padding) {
  int64_t count = (w.to_y - w.from_y) * (w.to_x - w.from_x);
  if (include_padding) {  // as torch: what the window has beyond the padding does not count
    count = (std::min(w.top + p.kernel_h, p.height + p.pad_h) - w.top) *
            (std::min(w.left + p.kernel_w, p.width + p.pad_w) - w.left);
  }
  return 1.0f / static_cast<float>(count);
}

}  // namespace

void rw_max_pool(const int64_t* pooling, const float* x, float* y, uint8_t* index, int threads) {
  const Pooling p(pooling);
  each_window(p, threads, [&](int64_t in, int64_t out, const Window& w) {
    for (int lane = 0; lane < GROUP; lane += LANES) {
      Vector best = broadcast(-std::numeric_limits<float>::infinity());
      Numbers where = static_cast<int32_t>(w.from_y * p.kernel_w + w.from_x) - Numbers{};
      for (int64_t ky = w.from_y; ky < w.to_y; ++ky) {
        for (int64_t kx = w.from_x; kx < w.to_x; ++kx) {
          const Vector value = load(x + (in + ky * p.width + kx) * GROUP + lane);
          const Numbers better = (Numbers)(value > best) | (Numbers)(value != value);  // NaN wins, as in torch
          const Numbers here = static_cast<int32_t>(ky * p.kernel_w + kx) - Numbers{};
          best = choose(better, value, best);
          where = (here & better) | (where & ~better);
        }
      }
      store(y + out * GROUP + lane, best);
      if (index) {
        const Bytes bytes = __builtin_convertvector(where, Bytes);
        std::memcpy(index + out * GROUP + lane, &bytes, sizeof bytes);
      }
    }
  });
}

void rw_max_pool_backward(const int64_t* pooling, const float* dy, const uint8_t* index, float* dx, int threads) {
  const Pooling p(pooling);
  spread(p, dx, threads, [&](int64_t out, int lane, const Window&) {
    Bytes bytes;
    std::memcpy(&bytes, index + out * GROUP + lane, sizeof bytes);
    const Numbers where = __builtin_convertvector(bytes, Numbers);
    const Vector gradient = load(dy + out * GROUP + lane);
    return [=](int32_t number) { return (Vector)((Numbers)gradient & (Numbers)(where == number)); };
  });
}

void rw_average_pool(const int64_t* pooling, const float* x, int include_padding, float* y, int threads) {
  const Pooling p(pooling);
  each_window(p, threads, [&](int64_t in, int64_t out, const Window& w) {
    const Vector factor = broadcast(share(p, w, include_padding));
    for (int lane = 0; lane < GROUP; lane += LANES) {
      Vector sum{};
      for (int64_t ky = w.from_y; ky < w.to_y; ++ky) {  // rows first, then their sums: errors grow with the side only
        Vector row{};
        for (int64_t kx = w.from_x; kx < w.to_x; ++kx) row += load(x + (in + ky * p.width + kx) * GROUP + lane);
        sum += row;
      }
      store(y + out * GROUP + lane, sum * factor);
    }
  });
}

void rw_average_pool_backward(const int64_t* pooling, const float* dy, int include_padding, float* dx, int threads) {
  const Pooling p(pooling);
  spread(p, dx, threads, [&](int64_t out, int lane, const Window& w) {
    const Vector gradient = load(dy + out * GROUP + lane) * broadcast(share(p, w, include_padding));
    return [=](int32_t) { return gradient; };
  });
}
