// The searches of table.h, on vectors of ASHLAR_LANES floats: a lane is a sub-block, so that each sum runs over a
// sub-block's elements in their order and every instruction set finds the same scales, bit for bit. Products and sums
// stay two roundings. Included once by a file of each instruction set, in its namespace; nothing here has linkage.
#pragma clang fp contract(off)

typedef float Lanes __attribute__((ext_vector_type(ASHLAR_LANES)));
typedef int32_t Ints __attribute__((ext_vector_type(ASHLAR_LANES)));

// Sub-blocks whose elements are all smaller are zeros.
static constexpr float kNothing = 1e-15f;

static inline Lanes all(float value) { return (Lanes)value; }
static inline Lanes choose(Ints which, Lanes a, Lanes b) { return which ? a : b; }
static inline Lanes magnitude(Lanes v) {
  union {
    Lanes f;
    Ints i;
  } bits = {v};
  bits.i &= (Ints)0x7fffffff;
  return bits.f;
}

static inline bool any(Ints which) {
  int32_t found = 0;
  for (int i = 0; i < ASHLAR_LANES; ++i) found |= which[i];
  return found != 0;
}

// To the nearest whole number within [low, high], ties to even; not-a-number becomes `low`. Bounds below 2^22.
static inline Lanes whole(Lanes v, float low, float high) {
  v = choose(v > all(low), v, all(low));
  v = choose(v < all(high), v, all(high));
  return (v + all(kLiftValue)) - all(kLiftValue);
}

// Some sub-blocks side by side.
struct Group {
  int n;
  Lanes x[kBlock], w[kBlock], wx[kBlock];  // elements, what their errors weigh, and the product
};

static void read_group(const ScaleSearch* job, int first, struct Group* g) {
  const int n = g->n = job->n;
  const int here = job->count - first < ASHLAR_LANES ? job->count - first : ASHLAR_LANES;
  float* x = (float*)g->x;
  float* w = (float*)g->w;
  for (int i = 0; i < n * ASHLAR_LANES; ++i) x[i] = w[i] = 0;
  for (int lane = 0; lane < here; ++lane)
    for (int i = 0; i < n; ++i) x[i * ASHLAR_LANES + lane] = job->x[(first + lane) * n + i];
  if (job->weighing == kGiven)
    for (int lane = 0; lane < here; ++lane)
      for (int i = 0; i < n; ++i) w[i * ASHLAR_LANES + lane] = job->weights[(first + lane) * n + i];
  Lanes mean = all(0);
  if (job->weighing == kBySpread) {
    for (int i = 0; i < n; ++i) mean += g->x[i] * g->x[i];
    for (int lane = 0; lane < ASHLAR_LANES; ++lane) mean[lane] = __builtin_sqrtf(mean[lane] / (float)n);
  }
  for (int i = 0; i < n; ++i) {
    if (job->weighing == kBySquare) g->w[i] = g->x[i] * g->x[i];
    if (job->weighing == kByMagnitude) g->w[i] = magnitude(g->x[i]);
    if (job->weighing == kBySpread) g->w[i] = mean + magnitude(g->x[i]);
    g->wx[i] = g->w[i] * g->x[i];
  }
}

static void put(const ScaleSearch* job, int first, float* out, Lanes value) {
  if (out == 0) return;
  for (int lane = 0; lane < ASHLAR_LANES && first + lane < job->count; ++lane) out[first + lane] = value[lane];
}

// The element of greatest magnitude, the first of equal ones.
static Lanes extreme(const struct Group* g) {
  Lanes most = all(0), found = all(0);
  for (int i = 0; i < g->n; ++i) {
    const Lanes size = magnitude(g->x[i]);
    const Ints more = size > most;
    most = choose(more, size, most);
    found = choose(more, g->x[i], found);
  }
  return found;
}

// The sums that decide about one choice of codes: the best scale is xl / l2, and it explains xl * xl / l2.
struct Fit {
  Lanes xl, l2;
};

static struct Fit fit_symmetric(const struct Group* g, Lanes inverse, int top) {
  struct Fit f = {all(0), all(0)};
  for (int i = 0; i < g->n; ++i) {
    const Lanes l = whole(inverse * g->x[i], (float)-top, (float)(top - 1));
    f.xl += g->wx[i] * l;
    f.l2 += g->w[i] * l * l;
  }
  return f;
}

// The table's value nearest to v, as a sum of its steps; halfway belongs to the greater one.
static inline Lanes in_table(Lanes v) {
  Lanes value = all((float)kIq4Table[0] - 128);
  for (int k = 1; k < 16; ++k) {
    const float low = (float)kIq4Table[k - 1] - 128, high = (float)kIq4Table[k] - 128;
    value += choose(v >= all((low + high) / 2), all(high - low), all(0));
  }
  return value;
}

static struct Fit fit_table(const struct Group* g, Lanes inverse) {
  struct Fit f = {all(0), all(0)};
  for (int i = 0; i < g->n; ++i) {
    const Lanes l = in_table(inverse * g->x[i]);
    f.xl += g->w[i] * l * g->x[i];
    f.l2 += g->w[i] * l * l;
  }
  return f;
}

// The best of several inverse scales, each judged with the scale that least squares gives its codes.
struct Best {
  Lanes scale, explained, inverse;
};

static struct Best start(struct Fit f, Lanes inverse) {
  struct Best b;
  b.scale = choose(f.l2 > all(0), f.xl / f.l2, all(0));
  b.explained = b.scale * f.xl;
  b.inverse = inverse;
  return b;
}

static void consider(struct Best* b, struct Fit f, Lanes inverse) {
  const Ints better = (f.l2 > all(0)) & (f.xl * f.xl > b->explained * f.l2);
  b->scale = choose(better, f.xl / f.l2, b->scale);
  b->explained = choose(better, b->scale * f.xl, b->explained);
  b->inverse = choose(better, inverse, b->inverse);
}

static void put_best(const ScaleSearch* job, int first, Lanes most, struct Best b) {
  const Ints alive = magnitude(most) >= all(kNothing);
  put(job, first, job->scale, choose(alive, b.scale, all(0)));
  put(job, first, job->inverse, choose(alive, b.inverse, all(0)));
}

static void search_symmetric(const ScaleSearch* job) {
  struct Group g;
  for (int first = 0; first < job->count; first += ASHLAR_LANES) {
    read_group(job, first, &g);
    const Lanes most = extreme(&g);
    const float top = (float)job->top;
    const Lanes inverse = all(-top) / most;
    struct Best best = start(fit_symmetric(&g, inverse, job->top), inverse);
    for (int i = -9; i <= 9; ++i) {
      if (i == 0) continue;
      const Lanes other = all(-(top + 0.1f * (float)i)) / most;
      consider(&best, fit_symmetric(&g, other, job->top), other);
    }
    put_best(job, first, most, best);
  }
}

static void search_in_table(const ScaleSearch* job) {
  struct Group g;
  const float end = (float)kIq4Table[0] - 128;
  for (int first = 0; first < job->count; first += ASHLAR_LANES) {
    read_group(job, first, &g);
    const Lanes most = extreme(&g);
    const Lanes inverse = all(1) / (-most / all(end));
    struct Best best = start(fit_table(&g, inverse), inverse);
    for (int i = -7; i <= 7; ++i) {
      const Lanes other = all((float)i + end) / most;
      consider(&best, fit_table(&g, other), other);
    }
    put_best(job, first, most, best);
  }
}

// Codes are moved one after another while that helps, the others kept.
static void search_moving(const ScaleSearch* job) {
  struct Group g;
  const float low = (float)-job->top, high = (float)(job->top - 1);
  for (int first = 0; first < job->count; first += ASHLAR_LANES) {
    read_group(job, first, &g);
    const Lanes most = extreme(&g);
    Lanes codes[kBlock];
    struct Fit f = {all(0), all(0)};
    for (int i = 0; i < g.n; ++i) {
      const Lanes l = codes[i] = whole(all(low) / most * g.x[i], low, high);
      f.xl += g.wx[i] * l;
      f.l2 += g.w[i] * l * l;
    }
    Ints moved = (Ints)-1;
    for (int round = 0; round < 5 && any(moved); ++round) {
      moved = (Ints)0;
      for (int i = 0; i < g.n; ++i) {
        const Lanes l = codes[i], w = g.w[i];
        Lanes xl = f.xl - g.wx[i] * l, l2 = f.l2 - w * l * l;
        const Lanes other = whole(g.x[i] * l2 / xl, low, high);
        Ints better = (xl > all(0)) & (other != l);
        xl += g.wx[i] * other;
        l2 += w * other * other;
        better &= (l2 > all(0)) & (xl * xl * f.l2 > f.xl * f.xl * l2);
        codes[i] = choose(better, other, l);
        f.xl = choose(better, xl, f.xl);
        f.l2 = choose(better, l2, f.l2);
        moved |= better;
      }
    }
    const Ints alive = (magnitude(most) >= all(kNothing)) & (f.l2 > all(0));
    put(job, first, job->scale, choose(alive, f.xl / f.l2, all(0)));
  }
}

// What is left of x when its codes are scaled back.
static Lanes error_of(const struct Group* g, const Lanes* codes, Lanes scale, Lanes min, bool absolute) {
  Lanes sum = all(0);
  for (int i = 0; i < g->n; ++i) {
    const Lanes off = scale * codes[i] + min - g->x[i];
    sum += g->w[i] * (absolute ? magnitude(off) : off * off);
  }
  return sum;
}

static void search_with_min(const ScaleSearch* job) {
  struct Group g;
  const float top = (float)job->top;
  for (int first = 0; first < job->count; first += ASHLAR_LANES) {
    read_group(job, first, &g);
    Lanes low = g.x[0], high = g.x[0], w = all(0), wx = all(0), codes[kBlock];
    for (int i = 0; i < g.n; ++i) {
      low = choose(g.x[i] < low, g.x[i], low);
      high = choose(g.x[i] > high, g.x[i], high);
      w += g.w[i];
      wx += g.wx[i];
    }
    low = choose(low > all(0), all(0), low);
    const Ints flat = high <= low;
    Lanes inverse = all(top) / (high - low), origin = low, min = low, scale = all(1) / inverse;
    for (int i = 0; i < g.n; ++i) codes[i] = whole(inverse * (g.x[i] - low), 0, top);
    Lanes least = error_of(&g, codes, scale, low, job->absolute);
    for (int step = 0; step <= job->steps; ++step) {
      const Lanes other = all(job->begin + job->stride * (float)step + top) / (high - min);
      Lanes l1 = all(0), l2 = all(0), xl = all(0);
      for (int i = 0; i < g.n; ++i) {
        const Lanes l = codes[i] = whole(other * (g.x[i] - min), 0, top);
        l1 += g.w[i] * l;
        l2 += g.w[i] * l * l;
        xl += g.w[i] * l * g.x[i];
      }
      const Lanes determinant = w * l2 - l1 * l1;
      Lanes s = (w * xl - wx * l1) / determinant, m = (l2 * wx - l1 * xl) / determinant;
      const Ints above = m > all(0);
      m = choose(above, all(0), m);
      s = choose(above, xl / l2, s);
      const Lanes error = error_of(&g, codes, s, m, job->absolute);
      const Ints better = (determinant > all(0)) & (error < least);
      inverse = choose(better, other, inverse);
      origin = choose(better, min, origin);
      least = choose(better, error, least);
      scale = choose(better, s, scale);
      min = choose(better, m, min);
    }
    put(job, first, job->scale, choose(flat, all(0), scale));
    put(job, first, job->min, choose(flat, low, min));
    put(job, first, job->inverse, choose(flat, all(0), inverse));
    put(job, first, job->origin, origin);
  }
}

static void search_lanes(const ScaleSearch* job) {
  switch (job->kind) {
    case kSymmetric:
      return search_symmetric(job);
    case kMoving:
      return search_moving(job);
    case kWithMin:
      return search_with_min(job);
    case kInTable:
      return search_in_table(job);
  }
}
