// Products of weights with activations, several in one go.
#pragma once

#include <cstdint>

#include "activations.h"

namespace qcode {

// A weight [rows, columns] and its bias [rows] or null. Mirrored in fused_layer.py.
struct Matrix {
    const void* data;
    const float* bias;
    int64_t rows, columns;
    int32_t ggml_type;
    int32_t is_packed;  // interleaved by qcode_pack; else as a file holds it
};

// Activations in both forms that weights ask for.
struct Activations {
    const float* values;            // [tokens, columns], for weights as a file holds them
    const ActivationBlock* blocks;  // panels of the same, for packed weights
    long tokens;
};

// y [tokens, stride] = x times the weight, plus its bias; added to what y holds if `adds`.
struct Product {
    const Matrix* weight;
    Activations x;
    float* y;
    long stride;
    bool adds;
};

// Computes all of them, in any order; none may read what another writes.
void multiply_all(const Product* products, long count, int threads);

// The part of a product that one thread takes at a time, for weights as a file holds them.
constexpr long kFileRowsPerShare = 16;
void multiply_file_rows(const Product& product, long first_row, long rows);

}  // namespace qcode
