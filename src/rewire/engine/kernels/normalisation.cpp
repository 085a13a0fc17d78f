// Batch norm in the blocked layout, with the addition and the ReLU that follow it. A channel is worked off at once, so
// that what its statistics have read is still in the cache when it is normalised.
//
// Lanes past the last image ("tail") count in no statistic; they are written as 0, forward and backward: so no value
// there can grow from layer to layer, and no gradient leaks.
#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "rewire.h"
#include "vector.h"

namespace {

constexpr int PARTS = GROUP / LANES;  // vectors of a group
constexpr int64_t CHUNK = 128;        // groups (8 KB) that are summed in float before the sum goes on in double

inline double total(Vector value) {
  double sum = 0;
  for (int i = 0; i < LANES; ++i) sum += value[i];
  return sum;
}

struct Shape {
  int64_t rows, channels, places;
  int64_t blocks, whole;  // of them, those without a tail
  Mask real[PARTS];       // lanes of images in the last block, where it has a tail

  Shape(int64_t rows_, int64_t channels_, int64_t places_)
      : rows(rows_), channels(channels_), places(places_), blocks((rows + GROUP - 1) / GROUP), whole(rows / GROUP) {
    for (int lane = 0; lane < GROUP; ++lane) real[lane / LANES][lane % LANES] = lane < rows % GROUP ? -1 : 0;
  }

  int64_t offset(int64_t block, int64_t channel) const { return (block * channels + channel) * places * GROUP; }
};

struct Chunk {
  int64_t first, last;  // blocks
  int64_t from, to;     // groups of each

  double count(const Shape& s) const {  // real numbers in it
    return static_cast<double>(to - from) * (std::min(last * GROUP, s.rows) - first * GROUP);
  }
};

template <class Use>
inline void each_chunk(const Shape& s, const Use& use) {
  if (s.places < CHUNK) {
    const int64_t step = CHUNK / std::max<int64_t>(1, s.places);
    for (int64_t b = 0; b < s.blocks; b += step) use(Chunk{b, std::min(b + step, s.blocks), 0, s.places});
    return;
  }
  for (int64_t b = 0; b < s.blocks; ++b) {
    for (int64_t g = 0; g < s.places; g += CHUNK) use(Chunk{b, b + 1, g, std::min(g + CHUNK, s.places)});
  }
}

// Sums K terms over the real lanes of a chunk of a channel; term(offset, terms) writes those of one vector.
template <int K, class Term>
inline void sums(const Shape& s, int64_t channel, const Chunk& chunk, const Term& term, double* result) {
  constexpr int CHAINS = 4;  // hide the latency of the additions
  Vector sum[CHAINS][K] = {};
  for (int64_t b = chunk.first; b < chunk.last; ++b) {
    const int64_t start = s.offset(b, channel) + chunk.from * GROUP, count = (chunk.to - chunk.from) * PARTS;
    Vector terms[K];
    if (b < s.whole) {
      int64_t v = 0;
      for (; v + CHAINS <= count; v += CHAINS) {
        for (int c = 0; c < CHAINS; ++c) {
          term(start + (v + c) * LANES, terms);
          for (int k = 0; k < K; ++k) sum[c][k] += terms[k];
        }
      }
      for (; v < count; ++v) {
        term(start + v * LANES, terms);
        for (int k = 0; k < K; ++k) sum[0][k] += terms[k];
      }
    } else {
      for (int64_t v = 0; v < count; ++v) {
        term(start + v * LANES, terms);
        for (int k = 0; k < K; ++k) sum[0][k] += only(s.real[v % PARTS], terms[k]);
      }
    }
  }
  for (int k = 0; k < K; ++k) result[k] = total((sum[0][k] + sum[1][k]) + (sum[2][k] + sum[3][k]));
}

// Writes value(offset) over a channel, 0 in the tail.
template <class Value>
inline void write(const Shape& s, int64_t channel, float* to, const Value& value) {
  const bool past = worth_past(to, s.blocks * s.channels * s.places * GROUP);
  for (int64_t b = 0; b < s.blocks; ++b) {
    const int64_t start = s.offset(b, channel), end = start + s.places * GROUP;
    if (b < s.whole && past) {
      for (int64_t at = start; at < end; at += LANES) store_past(to + at, value(at));
    } else if (b < s.whole) {
      for (int64_t at = start; at < end; at += LANES) store(to + at, value(at));
    } else {
      for (int64_t at = start; at < end; at += GROUP) {
        for (int p = 0; p < PARTS; ++p) store(to + at + p * LANES, only(s.real[p], value(at + p * LANES)));
      }
    }
  }
}

struct Statistics {
  double count = 0, mean = 0, squares = 0;  // squares: of the distances from the mean
};

// One read of the channel. A chunk's distances are taken from the mean of all chunks before it, and joined by the
// formula of Chan et al. (1983): what cancellation that costs is of the order of the variance between the chunks, so
// the result is as exact as that of two passes. The first chunk, which has none before it, is read twice.
inline Statistics statistics(const Shape& s, int64_t channel, const float* x) {
  Statistics all;
  each_chunk(s, [&](const Chunk& chunk) {
    const double count = chunk.count(s);
    if (all.count == 0) {
      double sum;
      sums<1>(s, channel, chunk, [&](int64_t at, Vector* terms) { terms[0] = load(x + at); }, &sum);
      all.mean = sum / count;
    }
    const float near = static_cast<float>(all.mean);
    const Vector shift = broadcast(near);
    double sum[2];
    auto distances = [&](int64_t at, Vector* terms) {
      terms[0] = load(x + at) - shift;
      terms[1] = terms[0] * terms[0];
    };
    sums<2>(s, channel, chunk, distances, sum);
    const double mean = near + sum[0] / count, squares = std::max(0.0, sum[1] - sum[0] * sum[0] / count);
    const double apart = mean - all.mean, together = all.count + count;
    all.squares += squares + apart * apart * (all.count * count / together);
    all.mean = all.count == 0 ? mean : all.mean + apart * (count / together);
    all.count = together;
    if (!(sum[1] == sum[1])) all.squares = sum[1];  // max() above would have hidden a NaN
  });
  return all;
}

struct Line {  // y = (x - mean) * scale + shift
  Vector mean, scale, shift;
  Vector at(Vector x) const { return (x - mean) * scale + shift; }
};

void normalise(const Shape& s, int64_t channel, const Line& line, const float* x, const float* residual, bool relu,
               float* y) {
  if (residual) {
    if (relu) {
      write(s, channel, y, [&](int64_t at) { return positive(line.at(load(x + at)) + load(residual + at)); });
    } else {
      write(s, channel, y, [&](int64_t at) { return line.at(load(x + at)) + load(residual + at); });
    }
  } else if (relu) {
    write(s, channel, y, [&](int64_t at) { return positive(line.at(load(x + at))); });
  } else {
    write(s, channel, y, [&](int64_t at) { return line.at(load(x + at)); });
  }
}

// Calls use(channel) for this thread's share of the channels.
template <class Use>
void each_channel(const Shape& s, int threads, const Use& use) {
  parallel(threads, [&](int thread, int team) {
    for (int64_t c = s.channels * thread / team; c < s.channels * (thread + 1) / team; ++c) use(c);
    finish_past();
  });
}

inline Line line_of(int64_t channel, float mean, float inverse, const float* gamma, const float* beta) {
  return {broadcast(mean), broadcast(gamma ? gamma[channel] * inverse : inverse), broadcast(beta ? beta[channel] : 0.0f)};
}

// The two gradients of one channel, and that of x; gradient(offset) is the output's behind the ReLU.
template <class Gradient, class Again>
inline void backward(const Shape& s, int64_t c, bool training, const float* x, float mean, float inverse, float scale,
                     const Gradient& gradient, const Again& again, float* dx, float* dgamma, float* dbeta) {
  const Vector centre = broadcast(mean);
  double sum[2] = {0, 0};
  each_chunk(s, [&](const Chunk& chunk) {
    double part[2];
    auto both = [&](int64_t at, Vector* terms) {
      terms[0] = gradient(at);
      terms[1] = terms[0] * (load(x + at) - centre);
    };
    sums<2>(s, c, chunk, both, part);
    sum[0] += part[0], sum[1] += part[1];
  });
  dbeta[c] = static_cast<float>(sum[0]);
  dgamma[c] = static_cast<float>(sum[1] * inverse);
  if (!dx) return;
  const Vector factor = broadcast(scale);
  if (!training) return write(s, c, dx, [&](int64_t at) { return again(at) * factor; });
  const double count = static_cast<double>(s.rows) * s.places;
  const Vector level = broadcast(static_cast<float>(sum[0] / count));
  const Vector slope = broadcast(static_cast<float>(sum[1] / count * inverse * inverse));
  write(s, c, dx, [&](int64_t at) { return (again(at) - level - (load(x + at) - centre) * slope) * factor; });
}

}  // namespace

void rw_batch_norm_train(int64_t rows, int64_t channels, int64_t places, const float* x, const float* gamma,
                         const float* beta, const float* residual, int relu, double eps, float* y, float* mean,
                         float* inverse, float* variance, int threads) {
  const Shape s(rows, channels, places);
  each_channel(s, threads, [&](int64_t c) {
    const Statistics found = statistics(s, c, x);
    mean[c] = static_cast<float>(found.mean);
    inverse[c] = static_cast<float>(1 / std::sqrt(found.squares / found.count + eps));
    variance[c] = static_cast<float>(found.squares / (found.count - 1));
    normalise(s, c, line_of(c, mean[c], inverse[c], gamma, beta), x, residual, relu, y);
  });
}

void rw_batch_norm_eval(int64_t rows, int64_t channels, int64_t places, const float* x, const float* mean,
                        const float* variance, const float* gamma, const float* beta, const float* residual, int relu,
                        double eps, float* y, int threads) {
  const Shape s(rows, channels, places);
  each_channel(s, threads, [&](int64_t c) {
    const float inverse = static_cast<float>(1 / std::sqrt(variance[c] + eps));
    normalise(s, c, line_of(c, mean[c], inverse, gamma, beta), x, residual, relu, y);
  });
}

void rw_batch_norm_backward(int64_t rows, int64_t channels, int64_t places, int training, int relu, const float* dy,
                            const float* x, const float* y, const float* mean, const float* inverse, const float* gamma,
                            const float* beta, float* dx, float* dgamma, float* dbeta, float* dresidual, int threads) {
  const Shape s(rows, channels, places);
  each_channel(s, threads, [&](int64_t c) {
    const Line line = line_of(c, mean[c], inverse[c], gamma, beta);
    const float scale = gamma ? gamma[c] * inverse[c] : inverse[c];
    auto plain = [&](int64_t at) { return load(dy + at); };
    auto seen = [&](int64_t at) { return only(passes(load(y + at)), load(dy + at)); };
    auto found = [&](int64_t at) { return only(passes(line.at(load(x + at))), load(dy + at)); };
    auto kept = [&](int64_t at) {
      const Vector value = seen(at);
      store(dresidual + at, value);
      return value;
    };
    auto again = [&](int64_t at) { return load(dresidual + at); };
    auto run = [&](const auto& first, const auto& second) {
      backward(s, c, training, x, mean[c], inverse[c], scale, first, second, dx, dgamma, dbeta);
    };
    if (!relu) run(plain, plain);
    else if (dresidual) run(kept, again);
    else if (y) run(seen, seen);
    else run(found, found);
  });
}
