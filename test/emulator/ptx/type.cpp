#include "type.h"

#include <map>

#include "text.h"

namespace emulator {

Type parse_type(const std::string& name) {
  static const std::map<std::string, Type> types = {
      {"pred", PREDICATE},
      {"b8", bits_type(8)},
      {"b16", B16},
      {"b32", B32},
      {"b64", B64},
      {"b128", bits_type(128)},
      {"u8", unsigned_type(8)},
      {"u16", unsigned_type(16)},
      {"u32", U32},
      {"u64", U64},
      {"s8", signed_type(8)},
      {"s16", signed_type(16)},
      {"s32", signed_type(32)},
      {"s64", signed_type(64)},
      {"f16", {Type::half, 16}},
      {"f16x2", {Type::half, 32, true}},
      {"bf16", {Type::bfloat, 16}},
      {"bf16x2", {Type::bfloat, 32, true}},
      {"f32", F32},
      {"f32x2", {Type::floating, 64, true}},
      {"f64", F64},
      {"tf32", {Type::tensorfloat, 32}},
  };
  auto found = types.find(name);
  return found == types.end() ? Type{} : found->second;
}

std::string c_type(Type type) {
  if (type.kind == Type::predicate) return "pred";
  if (type.is_float()) return cat("f", type.width);
  return cat(type.is_signed() ? "s" : "u", type.width);
}

}  // namespace emulator
