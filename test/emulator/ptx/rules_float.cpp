// Floating-point arithmetic of f32 and f64, the approximate functions, and f16, bf16 and pairs of them.
#include "emit.h"

namespace emulator {
namespace {

// Name of the rounding direction if it isn't to nearest.
const char* direction(const Instruction& i) {
  if (i.has("rz")) return "ROUND_ZERO";
  if (i.has("rm")) return "ROUND_DOWN";
  if (i.has("rp")) return "ROUND_UP";
  return nullptr;
}

}  // namespace

std::string FunctionEmitter::arithmetic(const Instruction& i) {
  Type type = i.type();
  if (i.has("cc")) return carry_arithmetic(i);
  if (type == Type{Type::floating, 64, true}) return pair_float_arithmetic(i);
  if (type.is_float()) return float_arithmetic(i);
  if (type.is_short_float()) return short_float_arithmetic(i);
  return integer_arithmetic(i);
}

std::string FunctionEmitter::float_arithmetic(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  std::string suffix = cat("_f", type.width);
  for (const char* integer : {"lo", "hi", "wide", "relu"})
    if (i.has(integer)) unknown(i);
  bool flush = i.has("ftz") && type == F32;
  auto in = [&](size_t n) { return flush ? cat("ftz(", read(o.at(n), type), ")") : read(o.at(n), type); };
  auto out = [&](std::string value) {
    if (i.has("sat")) value = cat("saturate", suffix, "(", value, ")");
    if (flush) value = cat("ftz(", value, ")");
    return write(o[0], type, value);
  };
  count(COUNT_FLOATING, one_of(name, "add sub mul") ? 1 : 0);
  if (one_of(name, "fma mad")) count(COUNT_FUSED, 2);
  if (const char* towards = direction(i)) {
    if (name == "fma" || name == "mad")
      return out(cat("fma", suffix, "_rounded(", in(1), ", ", in(2), ", ", in(3), ", ", towards, ")"));
    if (!one_of(name, "add sub mul div")) unknown(i);
    if (name == "sub") return out(cat("add", suffix, "_rounded(", in(1), ", -", in(2), ", ", towards, ")"));
    return out(cat(name, suffix, "_rounded(", in(1), ", ", in(2), ", ", towards, ")"));
  }
  if (name == "add") return out(cat(in(1), " + ", in(2)));
  if (name == "sub") return out(cat(in(1), " - ", in(2)));
  if (name == "mul") return out(cat(in(1), " * ", in(2)));
  if (name == "fma" || name == "mad") return out(cat("fma", suffix, "(", in(1), ", ", in(2), ", ", in(3), ")"));
  if (name == "div") {
    std::string quotient = cat(in(1), " / ", in(2));
    if (!i.has("approx") && !i.has("full")) return out(quotient);
    count(COUNT_SPECIAL);
    return out(cat("approximately(me, ", quotient, ")"));
  }
  if (name == "min" || name == "max") {
    if (i.has("abs") || i.has("xorsign")) unknown(i);
    std::string function = cat(name, suffix, i.has("NaN") ? "_nan(" : "(");
    std::string value = cat(function, in(1), ", ", in(2), ")");
    if (o.size() == 4) value = cat(function, value, ", ", in(3), ")");
    return out(value);
  }
  if (name == "abs") return out(cat("abs", suffix, "(", in(1), ")"));
  if (name == "neg") return out(cat("neg", suffix, "(", in(1), ")"));
  unknown(i);
}

// add, sub, mul, fma of two f32 in a 64-bit register.
std::string FunctionEmitter::pair_float_arithmetic(const Instruction& i) {
  if (!one_of(i.mnemonic(), "add sub mul fma")) unknown(i);
  const char* towards = direction(i);
  if (towards) unknown(i);
  bool flush = i.has("ftz"), fused = i.mnemonic() == "fma";
  std::string sign = i.mnemonic() == "add" ? " + " : i.mnemonic() == "sub" ? " - " : " * ";
  const std::vector<std::string>& o = i.operands;
  auto half = [&](int shift) {
    auto in = [&](size_t n) {
      std::string value = cat("to_f32((u32)(", read(o.at(n), B64), " >> ", shift, "))");
      return flush ? cat("ftz(", value, ")") : value;
    };
    std::string value = fused ? cat("fma_f32(", in(1), ", ", in(2), ", ", in(3), ")") : cat(in(1), sign, in(2));
    return cat("(u64)bits_of_f32(", flush ? "ftz(" : "(", value, ")) << ", shift);
  };
  count(fused ? COUNT_FUSED : COUNT_FLOATING, fused ? 4 : 2);
  return write(o[0], B64, cat(half(0), " | ", half(32)));
}

// f16 and bf16 are computed in f32, or for fma in f64 rounded to odd, which has enough digits: effectively one rounding.
std::string FunctionEmitter::short_float_arithmetic(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  if (direction(i) || i.has("sat") || i.has("xorsign")) unknown(i);
  if (i.has("ftz")) unknown(i);
  int lanes = type.packed ? 2 : 1;
  std::string kind = type.kind == Type::half ? "f16" : "bf16";
  std::string mask = type.packed ? "0x80008000u" : "0x8000u";
  if (name == "neg") return count(COUNT_FLOATING), write(o[0], type, cat(read(o.at(1), type), " ^ ", mask));
  if (name == "abs") return count(COUNT_FLOATING), write(o[0], type, cat(read(o.at(1), type), " & ~", mask));
  if (!one_of(name, "add sub mul fma min max")) unknown(i);
  bool fused = name == "fma";
  count(fused ? COUNT_FUSED : COUNT_FLOATING, (fused ? 2 : one_of(name, "add sub mul") ? 1 : 0) * lanes);
  std::string function = cat(name, "_", kind, i.has("NaN") ? "_nan" : "", i.has("relu") ? "_relu" : "");
  if (i.has("relu") && !fused) unknown(i);
  std::string arguments = cat(read(o.at(1), type), ", ", read(o.at(2), type), fused ? ", " + read(o.at(3), type) : "");
  if (!type.packed) return write(o[0], type, cat(function, "(", arguments, ")"));
  return write(o[0], type, cat(fused ? "PAIRWISE3(" : "PAIRWISE2(", function, ", ", arguments, ")"));
}

std::string FunctionEmitter::approximate(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  count(COUNT_SPECIAL);
  if (type.is_short_float()) {
    if (!one_of(name, "ex2 tanh")) unknown(i);
    std::string function = cat(name, type.kind == Type::half ? "_f16" : "_bf16");
    if (!type.packed) return write(o[0], type, cat(function, "(me, ", read(o.at(1), type), ")"));
    return cat(
        "{ u32 x = ", read(o.at(1), type), "; ",
        write(o[0], type, cat("(u32)", function, "(me, (u16)x) | (u32)", function, "(me, (u16)(x >> 16)) << 16")),
        " }");
  }
  if (!type.is_float()) unknown(i);
  bool flush = i.has("ftz") && type == F32, approximate = i.has("approx");
  std::string x = flush ? cat("ftz(", read(o.at(1), type), ")") : read(o.at(1), type);
  std::string suffix = cat("_f", type.width), value;
  const char* towards = direction(i);
  if (towards) {
    if (name == "rcp") value = cat("div", suffix, "_rounded(1, ", x, ", ", towards, ")");
    else if (name == "sqrt") value = cat("sqrt", suffix, "_rounded(", x, ", ", towards, ")");
    else unknown(i);
  } else if (type == F64) {
    if (name == "rcp") value = approximate ? cat("rcp_f64_approximate(", x, ")") : cat("1.0 / ", x);
    else if (name == "sqrt") value = cat("__builtin_sqrt(", x, ")");
    else if (name == "rsqrt") value = cat("rsqrt_f64_approximate(", x, ")");
    else unknown(i);
  } else {
    value = name == "ex2"     ? cat("__builtin_exp2f(", x, ")")
            : name == "lg2"   ? cat("__builtin_log2f(", x, ")")
            : name == "rcp"   ? cat("1.0f / ", x)
            : name == "rsqrt" ? cat("(f32)(1.0 / __builtin_sqrt((f64)", x, "))")
            : name == "sqrt"  ? cat("__builtin_sqrtf(", x, ")")
            : name == "sin"   ? cat("__builtin_sinf(in_one_turn(", x, "))")
            : name == "cos"   ? cat("__builtin_cosf(in_one_turn(", x, "))")
                              : cat("__builtin_tanhf(", x, ")");
    if (approximate) value = cat("approximately(me, ", value, ")");
  }
  if (flush) value = cat("ftz(", value, ")");
  return write(o[0], type, value);
}

// copysign d, a, b: the sign of a, the magnitude of b.
std::string FunctionEmitter::copy_sign(const Instruction& i) {
  Type type = i.type();
  if (!type.is_float()) unknown(i);
  count(COUNT_FLOATING);
  return write(
      i.operands[0], type,
      cat("copy_sign_f", type.width, "(", read(i.operands.at(1), type), ", ", read(i.operands.at(2), type), ")"));
}

std::string FunctionEmitter::test_property(const Instruction& i) {
  Type type = i.type();
  if (!type.is_float()) unknown(i);
  count(COUNT_FLOATING);
  static const std::map<std::string, std::string> tests = {
      {"finite", "__builtin_isfinite(x)"},
      {"infinite", "__builtin_isinf(x) != 0"},
      {"number", "x == x"},
      {"notanumber", "x != x"},
      {"normal", "__builtin_isnormal(x)"},
      {"subnormal", "__builtin_isfinite(x) && x != 0 && !__builtin_isnormal(x)"},
  };
  auto test = tests.find(i.parts.at(1));
  if (test == tests.end()) unknown(i);
  return cat("{ ", c_type(type), " x = ", read(i.operands.at(1), type), "; ",
             write(i.operands[0], PREDICATE, test->second), " }");
}

}  // namespace emulator
