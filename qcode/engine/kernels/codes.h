// The integers of a packed weight: kLanes rows by 32 columns, interleaved for the dot product.
//
// Columns are taken in quads of four. Vector `quad` holds columns 4 * quad .. 4 * quad + 3 of row r
// in bytes 4 * r .. 4 * r + 3, which is the order in which ByteDot wants them beside four bytes of x.
#pragma once

#include "simd.h"

namespace qcode {

constexpr int kGroupColumns = 32;
constexpr int kGroupQuads = 8;

// Byte-wise work on the four columns of one row at once.
inline uint32_t read_quad(const uint8_t* bytes) {
    uint32_t quad;
    std::memcpy(&quad, bytes, sizeof quad);
    return quad;
}

inline void write_quad(uint8_t* bytes, uint32_t quad) { std::memcpy(bytes, &quad, sizeof quad); }

template <int kBits>
struct Codes;

// Two quads share a vector: the even one in the low nibbles, the odd one in the high nibbles.
template <>
struct Codes<4> {
    uint8_t nibbles[kGroupQuads / 2][kVectorBytes];

    template <int kQuad>
    Bytes quad() const {
        const Words pair = load<Words>(nibbles[kQuad / 2]);
        return (Bytes)((kQuad % 2 ? pair >> 4 : pair) & 0x0f0f);
    }

    void set_row(int row, const uint8_t* codes) {
        for (int pair = 0; pair < kGroupQuads / 2; pair++) {
            const uint32_t low = read_quad(codes + 8 * pair) & 0x0f0f0f0f;
            const uint32_t high = read_quad(codes + 8 * pair + 4) & 0x0f0f0f0f;
            write_quad(nibbles[pair] + 4 * row, low | high << 4);
        }
    }

    void get_row(int row, uint8_t* codes) const {
        for (int pair = 0; pair < kGroupQuads / 2; pair++) {
            const uint32_t both = read_quad(nibbles[pair] + 4 * row);
            write_quad(codes + 8 * pair, both & 0x0f0f0f0f);
            write_quad(codes + 8 * pair + 4, both >> 4 & 0x0f0f0f0f);
        }
    }
};

// Nibbles, and a vector whose byte holds the fifth bit of quad q at bit q.
template <>
struct Codes<5> {
    Codes<4> low;
    uint8_t fifth[kVectorBytes];

    template <int kQuad>
    Bytes quad() const {
        const Words bits = load<Words>(fifth);
        const Words placed = kQuad < 4 ? bits << (4 - kQuad % 4) : bits >> (kQuad % 4);
        return low.quad<kQuad>() | (Bytes)(placed & 0x1010);
    }

    void set_row(int row, const uint8_t* codes) {
        low.set_row(row, codes);
        uint32_t bits = 0;
        for (int quad = 0; quad < kGroupQuads; quad++)
            bits |= (read_quad(codes + 4 * quad) >> 4 & 0x01010101) << quad;
        write_quad(fifth + 4 * row, bits);
    }

    void get_row(int row, uint8_t* codes) const {
        low.get_row(row, codes);
        const uint32_t bits = read_quad(fifth + 4 * row);
        for (int quad = 0; quad < kGroupQuads; quad++)
            write_quad(codes + 4 * quad,
                       read_quad(codes + 4 * quad) | (bits >> quad & 0x01010101) << 4);
    }
};

// Nibbles, and for each half of the quads a vector with the top two bits of four of them.
template <>
struct Codes<6> {
    Codes<4> low;
    uint8_t top[2][kVectorBytes];

    template <int kQuad>
    Bytes quad() const {
        const Words bits = load<Words>(top[kQuad / 4]);
        constexpr int kShift = 4 - 2 * (kQuad % 4);
        const Words placed = kShift >= 0 ? bits << (kShift & 15) : bits >> (-kShift & 15);
        return low.quad<kQuad>() | (Bytes)(placed & 0x3030);
    }

    void set_row(int row, const uint8_t* codes) {
        low.set_row(row, codes);
        for (int half = 0; half < 2; half++) {
            uint32_t bits = 0;
            for (int i = 0; i < 4; i++)
                bits |= (read_quad(codes + 16 * half + 4 * i) >> 4 & 0x03030303) << 2 * i;
            write_quad(top[half] + 4 * row, bits);
        }
    }

    void get_row(int row, uint8_t* codes) const {
        low.get_row(row, codes);
        for (int quad = 0; quad < kGroupQuads; quad++) {
            const uint32_t bits = read_quad(top[quad / 4] + 4 * row) >> 2 * (quad % 4) & 0x03030303;
            write_quad(codes + 4 * quad, read_quad(codes + 4 * quad) | bits << 4);
        }
    }
};

template <>
struct Codes<8> {
    uint8_t bytes[kGroupQuads][kVectorBytes];

    template <int kQuad>
    Bytes quad() const {
        return load<Bytes>(bytes[kQuad]);
    }

    void set_row(int row, const uint8_t* codes) {
        for (int quad = 0; quad < kGroupQuads; quad++)
            write_quad(bytes[quad] + 4 * row, read_quad(codes + 4 * quad));
    }

    void get_row(int row, uint8_t* codes) const {
        for (int quad = 0; quad < kGroupQuads; quad++)
            write_quad(codes + 4 * quad, read_quad(bytes[quad] + 4 * row));
    }
};

}  // namespace qcode
