// Kernels of the CUDA device, compiled by NVRTC when a device is opened.
//
// They know nothing but numbers and shapes, which the caller has checked. There is no atomic operation, and every
// sum has a fixed order: the same operands give the same bits on the same device. A block has THREADS threads;
// loops over numbers go through the whole grid, so that any grid is large enough.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256
#define ALL(i, n) \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x)

// ---- storing ----

__device__ float half_to_float(u32 bits) {
    u32 sign = (bits & 0x8000u) << 16;
    u32 exponent = bits >> 10 & 0x1fu;
    u32 fraction = bits & 0x3ffu;
    if (exponent == 0) {
        // Zero or subnormal: a multiple of 2^-24.
        float value = (float)fraction * 5.9604644775390625e-8f;
        return __uint_as_float(__float_as_uint(value) | sign);
    }
    u32 widened = exponent == 0x1fu ? 0xffu : exponent + 112u;
    return __uint_as_float(sign | widened << 23 | fraction << 13);
}

extern "C" __global__ void copy_f32(const float *in, float *out, u64 n) {
    ALL(i, n) out[i] = in[i];
}

extern "C" __global__ void widen_f16(const u16 *in, float *out, u64 n) {
    ALL(i, n) out[i] = half_to_float(in[i]);
}

extern "C" __global__ void widen_bf16(const u16 *in, float *out, u64 n) {
    ALL(i, n) out[i] = __uint_as_float((u32)in[i] << 16);
}

extern "C" __global__ void widen_f64(const float *in, double *out, u64 first, u64 n) {
    ALL(i, n) out[i] = (double)in[first + i];
}

// ---- each number by itself ----

extern "C" __global__ void add_bias(float *out, u64 n, u64 width, const float *bias) {
    ALL(i, n) out[i] += bias[i % width];
}

extern "C" __global__ void add(float *y, float factor, const float *x, u64 n) {
    ALL(i, n) y[i] += factor * x[i];
}

extern "C" __global__ void scale(float *x, float factor, u64 n) {
    ALL(i, n) x[i] *= factor;
}

extern "C" __global__ void soft_cap(float *x, float cap, u64 n) {
    ALL(i, n) x[i] = cap * tanhf(x[i] / cap);
}

// Of the negative magnitude, which overflows nothing.
__device__ float sigmoid(float x) {
    float power = expf(-fabsf(x));
    return (x < 0.0f ? power : 1.0f) / (1.0f + power);
}

// max(x, 0), and NaN of NaN.
__device__ float positive(float x) { return x < 0.0f ? 0.0f : x; }

__device__ float activated(float x, u32 kind) {
    switch (kind) {
    case 0: return x * sigmoid(x);
    case 1: return x * normcdff(x);
    // (1 + tanh u) / 2 is the sigmoid of 2 u.
    case 2: return x * sigmoid(1.595769122f * (x + 0.044715f * x * x * x));
    case 3: return x * sigmoid(1.702f * x);
    case 4: return positive(x);
    default: return positive(x) * positive(x);
    }
}

// `up` may be null.
extern "C" __global__ void activate(float *gate, const float *up, u64 n, u32 kind) {
    ALL(i, n) {
        float value = activated(gate[i], kind);
        gate[i] = up ? value * up[i] : value;
    }
}

// `up` may be null.
extern "C" __global__ void clamped_swiglu(float *gate, const float *up, u64 n, float alpha, float limit) {
    ALL(i, n) {
        float x = gate[i];
        x = x > limit ? limit : x;
        float y = up ? up[i] : 0.0f;
        y = y > limit ? limit : y;
        y = y < -limit ? -limit : y;
        gate[i] = (y + 1.0f) * x * sigmoid(alpha * x);
    }
}

// ---- rows and columns ----

// Columns that are next to each other in `narrow` and pieces in `wide`.
extern "C" __global__ void columns(
    const float *wide, u64 width, u64 first, u64 take, u64 stride, u64 count, float *narrow, u64 n) {
    u64 taken = take * count;
    ALL(i, n) {
        u64 row = i / taken, column = i % taken;
        narrow[i] = wide[row * width + first + column / take * stride + column % take];
    }
}

extern "C" __global__ void place(
    float *wide, u64 width, u64 first, u64 take, u64 stride, u64 count, const float *narrow, u64 n) {
    u64 taken = take * count;
    ALL(i, n) {
        u64 row = i / taken, column = i % taken;
        wide[row * width + first + column / take * stride + column % take] = narrow[i];
    }
}

extern "C" __global__ void gather(const float *x, u64 width, const u32 *rows, float *out, u64 n) {
    ALL(i, n) out[i] = x[rows[i / width] * width + i % width];
}

// No row is named twice.
extern "C" __global__ void scatter_add(
    float *out, u64 width, const u32 *rows, const float *factors, const float *x, u64 n) {
    ALL(i, n) out[rows[i / width] * width + i % width] += factors[i / width] * x[i];
}

// `n` is the number of pairs: rows · heads in a row · half.
extern "C" __global__ void rotate(
    float *x, const u32 *positions, const float *cosines, const float *sines,
    u64 width, u64 head, u64 first, u64 half, u32 interleaved, u64 n) {
    u64 heads = width / head;
    ALL(i, n) {
        u64 pair = i % half, at = i / half % heads, row = i / half / heads;
        float *turned = x + row * width + at * head + first;
        u64 a = interleaved ? 2 * pair : pair;
        u64 b = interleaved ? a + 1 : a + half;
        u64 angle = positions[row] * half + pair;
        float cosine = cosines[angle], sine = sines[angle];
        float p = turned[a], q = turned[b];
        turned[a] = p * cosine - q * sine;
        turned[b] = q * cosine + p * sine;
    }
}

// ---- sums ----

// The sum of a number of every thread, which all threads get.
__device__ float block_sum(float value, float *shared) {
    u32 t = threadIdx.x;
    __syncthreads();
    shared[t] = value;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) shared[t] += shared[t + half];
    }
    __syncthreads();
    return shared[0];
}

// A block for a group of `width` numbers; `gain` and `bias` may be null, and are for `groups` groups in turn.
extern "C" __global__ void normalize(
    const float *x, float *out, u64 width, u64 groups, u32 layer, float epsilon,
    const float *gain, float one, const float *bias) {
    __shared__ float shared[THREADS];
    const float *in = x + blockIdx.x * width;
    float *result = out + blockIdx.x * width;
    u64 part = blockIdx.x % groups * width;
    float mean = 0.0f;
    if (layer) {
        float sum = 0.0f;
        for (u64 i = threadIdx.x; i < width; i += THREADS) sum += in[i];
        mean = block_sum(sum, shared) / (float)width;
    }
    float square = 0.0f;
    for (u64 i = threadIdx.x; i < width; i += THREADS) {
        float distance = in[i] - mean;
        square += distance * distance;
    }
    float factor = 1.0f / sqrtf(block_sum(square, shared) / (float)width + epsilon);
    for (u64 i = threadIdx.x; i < width; i += THREADS) {
        float value = (in[i] - mean) * factor;
        if (gain) value *= gain[part + i] + one;
        if (bias) value += bias[part + i];
        result[i] = value;
    }
}

// Sums of `taken` rows: part `blockIdx.y` of `parts`, `[parts, 2, width]`, gets Σ|x| and Σx².
extern "C" __global__ void moments(const float *x, u64 rows, u64 width, u64 taken, double *parts) {
    u64 column = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (column >= width) return;
    u64 row = blockIdx.y * taken;
    u64 end = row + taken < rows ? row + taken : rows;
    double absolute = 0.0, squares = 0.0;
    for (; row < end; ++row) {
        double value = (double)x[row * width + column];
        absolute += fabs(value);
        squares += value * value;
    }
    double *sums = parts + (u64)blockIdx.y * 2 * width;
    sums[column] = absolute;
    sums[width + column] = squares;
}

// Adds the parts in turn.
extern "C" __global__ void add_parts(const double *parts, u64 count, double *sums, u64 n) {
    ALL(i, n) {
        double sum = 0.0;
        for (u64 part = 0; part < count; ++part) sum += parts[part * n + i];
        sums[i] = sum;
    }
}

// The first index of a block's numbers that are not finite, or all ones.
extern "C" __global__ void not_finite(const float *x, u64 n, u64 *found) {
    __shared__ u64 shared[THREADS];
    u32 t = threadIdx.x;
    u64 first = ~0ull;
    ALL(i, n) {
        if ((__float_as_uint(x[i]) & 0x7fffffffu) >= 0x7f800000u) {
            first = i;
            break;
        }
    }
    shared[t] = first;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half && shared[t + half] < shared[t]) shared[t] = shared[t + half];
    }
    if (t == 0) found[blockIdx.x] = shared[0];
}

// ---- attention ----

#define QUERIES 32
#define KEYS 64
#define VALUES 128
#define DEPTH 32
// Threads that share the softmax of a query.
#define LANES (THREADS / QUERIES)

// Causal softmax attention with a running maximum. A block computes VALUES values of one head of QUERIES queries;
// `tiles` has, for each blockIdx.x, the first row of the sequence, the first query in it and the sequence's length.
// `cap` is 0 where there is none, `window` likewise, and `sinks` may be null.
//
// A thread has queries y and y + 16 of the tile, and every 16th key or value.
extern "C" __global__ void __launch_bounds__(THREADS) attention(
    const float *q, const float *k, const float *v, const u32 *tiles, float *out,
    u64 heads, u64 kv_heads, u64 key, u64 value, float factor, float cap, u64 window, const float *sinks) {
    // Queries and keys, DEPTH numbers of each; later the values.
    __shared__ float stage[KEYS * VALUES];
    __shared__ float weights[QUERIES][KEYS + 1];
    __shared__ float highest[QUERIES][LANES];
    __shared__ float partial[QUERIES][LANES];
    __shared__ float most[QUERIES], total[QUERIES], shrink[QUERIES];
    float *queries = stage, *keys = stage + QUERIES * (DEPTH + 1);
    const float lowest = __uint_as_float(0xff800000u);

    u32 t = threadIdx.x, tx = t % 16, ty = t / 16;
    u64 base = tiles[3 * blockIdx.x], query = tiles[3 * blockIdx.x + 1], length = tiles[3 * blockIdx.x + 2];
    u64 head = blockIdx.y, kv = head / (heads / kv_heads), column = (u64)blockIdx.z * VALUES;
    u64 count = length - query < QUERIES ? length - query : QUERIES;
    u64 end = query + count;

    float sums[2][VALUES / 16];
    for (u32 i = 0; i < 2; ++i)
        for (u32 j = 0; j < VALUES / 16; ++j) sums[i][j] = 0.0f;
    if (t < QUERIES) {
        most[t] = sinks ? sinks[head] : lowest;
        total[t] = sinks ? 1.0f : 0.0f;
    }
    // From the tile of the first key that the first query sees.
    u64 start = window && query + 1 > window ? (query + 1 - window) / KEYS * KEYS : 0;
    for (; start < end; start += KEYS) {
        float scores[2][KEYS / 16];
        for (u32 i = 0; i < 2; ++i)
            for (u32 j = 0; j < KEYS / 16; ++j) scores[i][j] = 0.0f;
        for (u64 depth = 0; depth < key; depth += DEPTH) {
            __syncthreads();
            for (u32 i = t; i < QUERIES * DEPTH; i += THREADS) {
                u32 r = i / DEPTH, c = i % DEPTH;
                bool inside = r < count && depth + c < key;
                queries[r * (DEPTH + 1) + c] = inside ? q[((base + query + r) * heads + head) * key + depth + c] : 0.0f;
            }
            for (u32 i = t; i < KEYS * DEPTH; i += THREADS) {
                u32 r = i / DEPTH, c = i % DEPTH;
                bool inside = start + r < end && depth + c < key;
                keys[r * (DEPTH + 1) + c] = inside ? k[((base + start + r) * kv_heads + kv) * key + depth + c] : 0.0f;
            }
            __syncthreads();
            for (u32 c = 0; c < DEPTH; ++c) {
                float a = queries[ty * (DEPTH + 1) + c], b = queries[(ty + 16) * (DEPTH + 1) + c];
                for (u32 j = 0; j < KEYS / 16; ++j) {
                    float other = keys[(tx + 16 * j) * (DEPTH + 1) + c];
                    scores[0][j] += a * other;
                    scores[1][j] += b * other;
                }
            }
        }
        __syncthreads();
        for (u32 i = 0; i < 2; ++i) {
            u64 row = query + ty + 16 * i;
            for (u32 j = 0; j < KEYS / 16; ++j) {
                u64 seen = start + tx + 16 * j;
                float score = scores[i][j] * factor;
                if (cap != 0.0f) score = cap * tanhf(score / cap);
                bool visible = seen <= row && (window == 0 || seen + window > row);
                weights[ty + 16 * i][tx + 16 * j] = visible ? score : lowest;
            }
        }
        for (u32 i = t; i < KEYS * VALUES; i += THREADS) {
            u32 r = i / VALUES, c = i % VALUES;
            bool inside = start + r < end && column + c < value;
            stage[i] = inside ? v[((base + start + r) * kv_heads + kv) * value + column + c] : 0.0f;
        }
        __syncthreads();

        u32 r = t / LANES, lane = t % LANES;
        float high = lowest;
        for (u32 c = lane; c < KEYS; c += LANES) high = weights[r][c] > high ? weights[r][c] : high;
        highest[r][lane] = high;
        __syncthreads();
        high = most[r];
        for (u32 i = 0; i < LANES; ++i) high = highest[r][i] > high ? highest[r][i] : high;
        // A query that has seen nothing yet has no maximum to subtract.
        float zero = high == lowest ? 0.0f : high;
        float sum = 0.0f;
        for (u32 c = lane; c < KEYS; c += LANES) {
            float weight = expf(weights[r][c] - zero);
            weights[r][c] = weight;
            sum += weight;
        }
        partial[r][lane] = sum;
        __syncthreads();
        if (lane == 0) {
            float all = 0.0f;
            for (u32 i = 0; i < LANES; ++i) all += partial[r][i];
            shrink[r] = expf(most[r] - zero);
            total[r] = total[r] * shrink[r] + all;
            most[r] = high;
        }
        __syncthreads();

        for (u32 i = 0; i < 2; ++i)
            for (u32 j = 0; j < VALUES / 16; ++j) sums[i][j] *= shrink[ty + 16 * i];
        u32 taken = end - start < KEYS ? (u32)(end - start) : KEYS;
        for (u32 c = 0; c < taken; ++c) {
            float a = weights[ty][c], b = weights[ty + 16][c];
            for (u32 j = 0; j < VALUES / 16; ++j) {
                float other = stage[c * VALUES + tx + 16 * j];
                sums[0][j] += a * other;
                sums[1][j] += b * other;
            }
        }
    }
    for (u32 i = 0; i < 2; ++i) {
        u64 row = ty + 16 * i;
        for (u32 j = 0; j < VALUES / 16; ++j) {
            u64 at = column + tx + 16 * j;
            if (row < count && at < value) {
                out[((base + query + row) * heads + head) * value + at] = sums[i][j] / total[row];
            }
        }
    }
}
