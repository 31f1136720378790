// The plain structures that kernels of every instruction set share: how packed
// weights and activations lie in memory, and what a call gets. Only plain C
// here: files under x86/ include this and are compiled with their own flags.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ashlar::kernels {

// Packed weights stand in tiles of 16 weight rows; a SIMD lane is a weight row.
inline constexpr int kLanes = 16;
// Activations stand in panels of 16 (quantized) or 8 (float) rows.
inline constexpr int kPanelRows = 16;
inline constexpr int kFloatPanelRows = 8;
// Activations for a matrix unit stand in panels of 16 rows, in tiles of 1 KiB: a row is a line of 64 bytes.
inline constexpr int kTileRows = 16;
inline constexpr int kLineBytes = 64;
inline constexpr int kTileBytes = kTileRows * kLineBytes;
// For quantized weights, each group of columns: its tiles of int8, 64 columns each, the two of each pair of columns
// exchanged, then the rows' scales f32[16] and sums of codes
// int32[16]; columns beyond the last are zero. (Adding up a group costs as much as four of its tiles.)
inline constexpr int kInt8GroupTiles = 8;
inline constexpr int kInt8GroupColumns = 64 * kInt8GroupTiles;
// Rows of so many columns stay with the vector kernels, whose activations have a scale for each 32 columns: they cost
// little anyway, and small models mind errors more.
inline constexpr int kNarrowColumns = 768;
// Few rows go past the matrix unit, and their tiles have so many lines only: 1, 2, 4 or 8.
inline constexpr int kFewRows = 8;
inline constexpr int int8_lines(int rows) { return rows > kFewRows ? kTileRows : rows > 4 ? 8 : rows > 2 ? 4 : rows; }
inline constexpr int int8_group_bytes(int lines) { return kInt8GroupTiles * kLineBytes * lines + 8 * kTileRows; }
// For weights of 16 bits, tiles of 32 columns as bf16; products add them up 16 tiles at a time.
inline constexpr int kBf16GroupTiles = 16;
inline constexpr int kBf16GroupBytes = kBf16GroupTiles * kTileBytes;
// Elements of a quantized row that share one activation scale.
inline constexpr int kBlock = 32;
// Positions of one KV block.
inline constexpr int kKvBlock = 16;
// Attention rescales its running sums every so many positions (from position 0) ...
inline constexpr int kKvChunk = 256;
// ... and begins them anew every so many; the results of these splits are joined in order.
inline constexpr int kKvSplit = 512;
// Most rows (query heads of one KV group times positions, of one or more sequences) of one attention job.
inline constexpr int kAttentionRows = 128;
inline constexpr int kMaxHeadDim = 256;

// How keys and values are stored. int8: symmetric codes with an f32 scale for each position and KV head.
enum KvFormat : int { kKvF16, kKvBF16, kKvInt8 };
// gelu(x) = x / (1 + exp(-x (a + b x^2))), with a = 2 sqrt(2 / pi) and b = 0.044715 a.
inline constexpr float kGeluA = 1.59576912f, kGeluB = 0.0713548163f;
// For x >= 0, 1 - erf(x) = t (c1 + t (c2 + ...)) exp(-x^2) with t = 1 / (1 + p x), to 1.5e-7 (Abramowitz and Stegun,
// 7.1.26).
inline constexpr float kErfP = 0.3275911f, kErf1 = 0.254829592f, kErf2 = -0.284496736f, kErf3 = 1.421413741f,
                       kErf4 = -1.453152027f, kErf5 = 1.061405429f, kRootHalf = 0.70710678f;
// A key or value without an element of this magnitude is stored as int8 zeros.
inline constexpr float kLeastInt8 = 1e-30f;

// Index into the tables below; one per weight type.
enum Format : int {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kU4Z,
  kU8Z,
  kI8,
  kNF4,
  kMXFP4,
  kFormats
};

// A packed quantized tile is `units` units; a unit is one block of the file format for 16 rows:
//
//   f16 scale[16]  (f16 min[16])                       once; or f32 scale[16], or f16 scale[16] int8 zero[16]
//   then for each 32 elements (1, 2 or 8 times):
//     integer scales and mins [16] each, if the type has them
//     codes: planes of 64-byte groups; in a group, lane l has bytes 4l..4l+3, for 4 consecutive elements
//
//   4-bit plane, 256 bytes: group j has elements 4j..4j+3 low, 16+4j..16+4j+3 high
//   2-bit plane, 128 bytes: group h has elements 16h+4f.. in bits 2f, 2f+1 of each byte
//   1-bit plane,  64 bytes: elements 4g.. in bit g of each byte
//   8-bit plane, 512 bytes: group g has elements 4g..4g+3
//
// type   once      per 32 elements                      value
// Q8_0   d         8-bit                                d * (c - 128)
// Q4_0   d         4-bit                                d * (c - 8)
// Q4_1   d m       4-bit                                d * c + m
// Q5_0   d         4-bit 1-bit                          d * (c - 16)
// Q5_1   d m       4-bit 1-bit                          d * c + m
// Q2_K   d dmin    s|m<<4 for each half, 2-bit          d * s * c - dmin * m
// Q3_K   d         s (signed) for each half, 2-bit 1-bit  d * s * (c - 4)
// Q4_K   d dmin    s m, 4-bit                           d * s * c - dmin * m
// Q5_K   d dmin    s m, 4-bit 1-bit                     d * s * c - dmin * m
// Q6_K   d         s (signed) for each half, 4-bit 2-bit  d * s * (c - 32)
// IQ4_NL d         4-bit                                d * table[c]
// IQ4_XS d         s (signed), 4-bit                    d * s * table[c]
// U4Z    d z       4-bit                                d * (c - 8) - d * z
// U8Z    d z       8-bit                                d * (c - 128) - d * z
// I8     d (f32)   8-bit                                d * (c - 128)
// NF4    d (f32)   4-bit                                d * table[c]
// MXFP4  d         4-bit                                d * table[c]
//
// Where there is a matrix unit, types of 4 bits without a min (Q4_0, IQ4, U4Z, NF4, MXFP4) are packed by the groups of
// columns of the panels instead (codebooks.h):
//
//   f32 step[16]          of int8: 1/127 of the greatest weight that the row's group can hold
//   int8 factor[block][16]  what the greatest code (8 below the middle, 127 of IQ4, 112 of NF4) becomes in such
//                         steps; of U4Z for 8 codes, the second of each two blocks 16 - the zero; filled up to whole
//                         lines of 64 bytes
//   codes[block][4][64]   part q has weight rows q, 4 + q, 8 + q and 12 + q, 16 bytes each: the two of each pair of
//                         columns exchanged, byte i has column i ^ 1 low and 16 + (i ^ 1) high
//
// Float tiles: F32 and F16 [column][16]; BF16 [column / 2][16][2], an odd column padded with zero.
struct Layout {
  bool min;                        // a second f16 per unit
  int blocks;                      // of 32 elements in a unit
  int subs;                        // sub-blocks with their own scale in 32 elements
  int scale_bytes;                 // integer scales and mins, per lane and 32 elements
  int bits;                        // of a code
  int offset;                      // subtracted from a code (0 with a table or a min)
  bool wide = false;               // the scale is f32, of 22 significant bits (see kLift)
  bool zero = false;               // an int8 per unit: a min of so many negative scales
  const uint8_t* table = nullptr;  // values of codes, plus 128
};
extern const Layout kLayouts[kFormats];
inline constexpr int header_bytes(const Layout& layout) {
  return layout.min || layout.wide ? 64 : layout.zero ? 32 + kLanes : 32;
}
// Values of the IQ4 codes, plus 128.
inline constexpr uint8_t kIq4Table[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

// Values of the NF4 codes in 112ths, plus 128: off by 0.17 % of the greatest, root mean square.
inline constexpr uint8_t kNf4Table[16] = {16, 50, 69, 84, 96, 107, 118, 128, 137, 146, 156, 166, 177, 191, 209, 240};
inline constexpr float kNf4Reach = 112;

// Values of the MXFP4 codes (FP4 E2M1 of the OCP Microscaling formats, 2023), doubled, plus 128.
inline constexpr uint8_t kFp4Table[16] = {128, 129, 130, 131, 132, 134, 136, 140,
                                          128, 127, 126, 125, 124, 122, 120, 116};
inline constexpr int kFp4Reach = 12;

// From the middle to its end.
inline constexpr int kIq4Reach = 127;

inline constexpr int codebook_header_bytes(int blocks) {
  return 4 * kLanes + (kLanes * blocks + kLineBytes - 1) / kLineBytes * kLineBytes;
}
inline constexpr int codebook_group_bytes(int blocks) {
  return blocks == 0 ? 0 : codebook_header_bytes(blocks) + 256 * blocks;
}

// An integer i below 2^22 in magnitude is the f32 with the bits kLift + i, less kLiftValue. So a sum that
// starts at kLift needs no conversion: i * s = fma(lifted, s, -kLiftValue * s), exact up to its one rounding
// when s has at most 22 significant bits, which all scales have (f16 times an integer of 8 bits).
inline constexpr int32_t kLift = 0x4b400000;
inline constexpr float kLiftValue = 0x1.8p23f;

// 32 columns of 16 activation rows: int8 codes with one scale per row.
struct PanelBlock {
  int8_t codes[kPanelRows][kBlock];
  float scale[kPanelRows];
  int32_t bias[kPanelRows];          // kLift - 128 * the sum of the codes
  int32_t bias_half[2][kPanelRows];  // the same for each 16 columns
  float sum[kPanelRows];             // scale * the sum of the codes
  float sum_half[2][kPanelRows];
};

// y[r, o] = sum_k W[o, k] x[r, k] for some tiles and all rows of x.
struct MatmulJob {
  const uint8_t* tiles;
  size_t tile_bytes;
  int outputs;    // weight rows; the last tile may be partly used
  int units;      // of a quantized row; columns (even for BF16) of a float row
  const void* x;  // PanelBlock[panel][block], or float panels: [panel][column][width], the last panel's width
                  // the smallest of 1, 2, 4, 8 that has room for its rows, or panels of tiles
  size_t panel_bytes;
  int rows;        // of x
  float* partial;  // room for a sum of each row (in pairs of panels) and output, 64-byte aligned; with tiles only
  float* y;        // [rows, ldy]
  size_t ldy;
};

// Some rows against bf16 weights that few rows meet, as low-rank matrices beside a large one are: rows stand wherever
// they stand, and nothing is converted or kept in between.
inline constexpr int kNarrowRows = 16;
struct NarrowJob {
  const uint16_t* weights;
  int inputs, outputs;
  int rows;  // at most kNarrowRows
  float scale;
  const float* x[kNarrowRows];  // [inputs] each
  float* y[kNarrowRows];        // [outputs] each
};
// Where weights are [outputs][inputs], rows of so many inputs: the last ones are filled up with zeros.
inline constexpr int narrow_inputs(int inputs) { return (inputs + kLanes - 1) / kLanes * kLanes; }

// The same with weights and activations of 8 bits: products of codes are exact, and each kNarrow8Block inputs have
// their scales.
struct NarrowScale {
  float scale;
  int32_t bias;  // -128 * the sum of the codes
};
struct Narrow8Job {
  // Tiles of kLanes outputs, the last one of as many as are left: codes [narrow8_inputs(inputs) / 4][its outputs][4],
  // 128 more than what they mean; bf16 scales [narrow8_blocks(inputs)][its outputs].
  const uint8_t* weights;
  const uint16_t* scales;
  int inputs, outputs;
  int rows;                     // at most kNarrowRows
  const int8_t* x;              // [rows], `ldx` apart: narrow8_codes_of(inputs) each
  const NarrowScale* x_scales;  // [rows], `ld_scales` apart: narrow8_blocks(inputs) each
  size_t ldx, ld_scales;
  float scale;
  bool add;               // to what y has
  float* y[kNarrowRows];  // [outputs] each
};
// So many codes of an output: the last ones are filled up with zeros.
inline constexpr int narrow8_inputs(int inputs) { return (inputs + 3) / 4 * 4; }
// The same of a row of x.
inline constexpr int narrow8_codes_of(int inputs) { return (inputs + 63) / 64 * 64; }
inline constexpr int kNarrow8Block = 128;
inline constexpr int narrow8_blocks(int inputs) { return (inputs + kNarrow8Block - 1) / kNarrow8Block; }

// The keys (or the values) of 16 positions and one KV head are head_dim * 16 elements in an order that belongs to
// the row of the table (they are written and read by it alone), then, for int8, the scales [16 positions], f32.
//
//              keys                          values
// ref, avx*    [head_dim][16 positions]      [16 positions][head_dim]
// amx          [head_dim/2][16 positions][2] [8 pairs of positions][head_dim][2]

// Attention of some rows over one KV head, from position `begin` on. A row sees the positions in
// (position - window, position]; what it sees is walked in splits of kKvSplit.
struct AttentionJob {
  const float* q[kAttentionRows];  // [head_dim] each
  // [head_dim] each: the sums of weighted values over the sum of weights, if `finish`. Else partial results:
  // [head_dim] sums of weighted values, then the greatest score (times peak_unit) and the sum of weights.
  float* out[kAttentionRows];
  int position[kAttentionRows];       // of the row's token
  const int* blocks[kAttentionRows];  // block table of the row's sequence; rows of a sequence stand together
  int rows;
  int begin, end;         // positions: whole splits, but for an `end` beyond all rows
  int shared;             // all tables agree on the positions from begin to here, whole blocks
  int finish;             // all that the rows see is in this job
  int head_dim;           // a multiple of 8, at most kMaxHeadDim
  int window;             // at least 1
  float scale;            // of q
  float cap;              // a score s becomes cap * tanh(s / cap); 0: it stays
  int format;             // KvFormat
  const uint8_t* keys;    // block b: at keys + b * block_bytes
  const uint8_t* values;  // block b: at values + b * block_bytes
  size_t block_bytes;
  uint8_t* scratch;  // kAttentionScratch bytes, 64-byte aligned
};
inline constexpr size_t kAttentionScratch = 640 << 10;
// Floats from one partial result to the next.
inline constexpr int kPartialExtra = 16;

// Scales for quantizing: of some sub-blocks, each by itself, the one that leaves the least weighted error among
// those tried, where each try is refined by least squares for the codes that it gives.
enum SearchKind : int {
  kSymmetric,  // x = scale * code, code in [-top, top); 19 tries around -top / the greatest x
  kMoving,     // the same, from the first of these tries codes are moved one by one
  kWithMin,    // x = scale * code + min, min <= 0, code in [0, top]
  kInTable,    // x = scale * a value of the IQ4 table; 15 tries
};
// What the error of an element x weighs.
enum Weighing : int { kGiven, kByMagnitude /* |x| */, kBySquare /* x^2 */, kBySpread /* |x| + root of the mean x^2 */ };

struct ScaleSearch {
  SearchKind kind;
  const float* x;  // [count][n]
  int count, n;    // sub-blocks, and elements of one: at most kBlock
  Weighing weighing;
  const float* weights;  // [count][n] if kGiven
  int top;
  float begin, stride;  // kWithMin: tries (begin + stride * i + top) / range, i in [0, steps]
  int steps;
  bool absolute;  // errors count as |e| and not e^2
  // Out, [count] each; any but `scale` may be null. The codes that were judged best are those nearest to
  // inverse * (x - origin), with no origin but in kWithMin.
  float *scale, *min, *inverse, *origin;
};

// One row per instruction set. Functions are pure: no allocation, no threads, no state.
// Every row gives bit for bit the results of ref.
struct Kernels {
  const char* isa;
  void (*matmul[kFormats])(const MatmulJob* job);
  // The same on a matrix unit: null without one, and for F32. See reads_tiles() in kernels.h.
  void (*tile_matmul[kFormats])(const MatmulJob* job);
  // y[r][o] = scale * sum over i of W[o, i] x[r][i], for more inputs than outputs: sixteen partial sums, added by
  // halves. weights [outputs][narrow_inputs(inputs)].
  void (*narrow_in)(const NarrowJob* job);
  // y[r][o] += sum over i of W[o, i] x[r][i] in order, for more outputs than inputs, which are even; no scale. weights
  // [output / 16][input / 2][16][2], as a BF16 tile; those of outputs that are not there are not used.
  void (*narrow_out)(const NarrowJob* job);
  // Some jobs with weights of 8 bits. Those of the same shape go best side by side: several streams from memory are
  // faster than one. y[r][o] = scale * sum over i of W[o, i] x[r][i], or y + this if `add`: products of codes are added
  // in each block, as integers, and blocks times both scales in order.
  void (*narrow8)(const Narrow8Job* jobs, int count);
  // x [n] as narrow8_codes_of(n) codes, the greatest of a block 127, and the blocks' scales.
  void (*narrow8_codes)(const float* x, int n, int8_t* codes, NarrowScale* scales);
  // x [rows <= 16, columns] into one panel; columns a multiple of 32.
  void (*quantize_panel)(const float* x, size_t ldx, int rows, int columns, PanelBlock* panel);
  // x [rows <= 16, columns] into one panel of tiles. int8: into whole groups, of `lines` lines.
  void (*int8_panel)(const float* x, size_t ldx, int rows, int columns, int lines, uint8_t* panel);
  void (*bf16_panel)(const float* x, size_t ldx, int rows, int columns, uint8_t* panel);
  void (*attend)(const AttentionJob* job);
  // out [head_dim] of a row from its partial results, in order of positions, head_dim + kPartialExtra floats apart.
  void (*join)(const float* partials, int count, int head_dim, float* out);
  // One position's key and value [head_dim] into slot 0..15 of a block. Values beyond f16 are clamped to its range.
  void (*store_key)(const float* key, int head_dim, int format, uint8_t* keys, int slot);
  void (*store_value)(const float* value, int head_dim, int format, uint8_t* values, int slot);
  // Of the greatest scores in partial results: 1, or log2(e) where weights are powers of 2 and these scores are rounded
  // up to whole numbers.
  float peak_unit;
  KvFormat natural_kv;  // the format that needs no conversion
  // y = x / sqrt(mean(x^2) + epsilon) * weight, n elements.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int n, float* y);
  // y = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias, n elements.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, int n, float* y);
  // x += y
  void (*add)(const float* y, int n, float* x);
  // x [n] += each of `count` rows, `ld` apart, times its factor, one after the other; a product is rounded before it is
  // added.
  void (*add_rows)(const float* rows, size_t ld, const float* factors, int count, int n, float* x);
  // Rotates pairs by their angles: (x[i], x[i + n/2]) if `halves`, else (x[2i], x[2i+1]); cosine and sine [n/2].
  void (*rope)(const float* cosine, const float* sine, int n, int halves, float* x);
  // y = silu(gate) * up
  void (*silu_mul)(const float* gate, const float* up, int n, float* y);
  // y = gelu(gate) * up, gelu by its approximation with tanh
  void (*gelu_mul)(const float* gate, const float* up, int n, float* y);
  // y = gelu(x) = x (1 + erf(x / sqrt(2))) / 2
  void (*gelu)(const float* x, int n, float* y);
  // The greatest x, and the sum of exp(x - greatest).
  void (*exp_sum)(const float* x, int n, float* greatest, float* sum);
  // y = exp(x - shift) * factor
  void (*exp_scale)(const float* x, int n, float shift, float factor, float* y);
  void (*search)(const ScaleSearch* job);
  // Reads memory and gives a checksum: to measure bandwidth.
  uint64_t (*read_memory)(const uint8_t* data, size_t bytes);
  // Does `rounds` rounds of independent register arithmetic; returns the operations done (a multiply-add is two).
  double (*int8_operations)(int64_t rounds);
  double (*bf16_operations)(int64_t rounds);  // null: 16-bit weights meet f32
  double (*float_operations)(int64_t rounds);
};

}  // namespace ashlar::kernels
