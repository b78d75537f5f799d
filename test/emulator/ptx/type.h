// PTX's fundamental types and the C types that hold them.
#pragma once
#include <string>

namespace emulator {

struct Type {
  enum Kind {
    none,
    predicate,
    bits,
    unsigned_integer,
    signed_integer,
    half,
    bfloat,
    floating,
    tensorfloat
  } kind = none;
  int width = 0;        // total bits
  bool packed = false;  // two halves in one register: f16x2, bf16x2, f32x2

  bool is_float() const { return kind == floating && !packed; }
  bool is_short_float() const { return (kind == half || kind == bfloat); }
  bool is_signed() const { return kind == signed_integer; }
  int bytes() const { return kind == predicate ? 1 : width / 8; }
  bool operator==(const Type&) const = default;
};

constexpr Type PREDICATE{Type::predicate, 8};
constexpr Type B16{Type::bits, 16}, B32{Type::bits, 32}, B64{Type::bits, 64};
constexpr Type U32{Type::unsigned_integer, 32}, U64{Type::unsigned_integer, 64}, F32{Type::floating, 32},
    F64{Type::floating, 64};

constexpr Type unsigned_type(int width) {
  return {Type::unsigned_integer, width};
}
constexpr Type signed_type(int width) {
  return {Type::signed_integer, width};
}
constexpr Type bits_type(int width) {
  return {Type::bits, width};
}

// The type for a name without its dot; kind none if the name is not a type.
Type parse_type(const std::string& name);
// u32, f32, pred, …: bf16 or f16 become u16, a pair of them u32.
std::string c_type(Type);

}  // namespace emulator
