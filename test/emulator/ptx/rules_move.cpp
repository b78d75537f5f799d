// Moves, conversions between types and state spaces, comparisons and selections.
#include "emit.h"

namespace emulator {

std::string FunctionEmitter::move(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  if (type.kind == Type::none || type.width > 64) unknown(i);
  bool unpacks = o.at(0)[0] == '{', packs = o.at(1)[0] == '{';
  if (!unpacks && !packs) return write(o[0], type, read(o[1], type));
  Type whole = bits_type(type.width);
  std::vector<std::string> parts = elements(unpacks ? o[0] : o[1]);
  int width = type.width / (int)parts.size();
  Type part = bits_type(width);
  if (unpacks) {
    std::string text = cat("{ u64 whole = ", read(o[1], whole), ";");
    for (size_t k = 0; k < parts.size(); k++)
      if (parts[k] != "_") text += " " + write(parts[k], part, cat("(", c_type(part), ")(whole >> ", k * width, ")"));
    return text + " }";
  }
  std::string sum;
  for (size_t k = 0; k < parts.size(); k++)
    sum += cat(k ? " | " : "", "(u64)", read(parts[k], part), " << ", k * width);
  return write(o[0], whole, cat("(", c_type(whole), ")(", sum, ")"));
}

std::string FunctionEmitter::convert(const Instruction& i) {
  std::vector<Type> types = i.types();
  if (types.size() != 2) unknown(i);
  Type to = types[0], from = types[1];
  const std::vector<std::string>& o = i.operands;
  auto in = [&](size_t n) {
    std::string value = read(o.at(n), from);
    return i.has("ftz") && from == F32 ? cat("ftz(", value, ")") : value;
  };
  // Rounding: to an integer (rni …) or to fewer digits (rn …).
  std::string integral = i.has("rni")   ? "rint"
                         : i.has("rmi") ? "floor"
                         : i.has("rpi") ? "ceil"
                         : i.has("rzi") ? "trunc"
                                        : "";
  std::string towards = i.has("rz") ? "ROUND_ZERO" : i.has("rm") ? "ROUND_DOWN" : i.has("rp") ? "ROUND_UP" : "";
  auto name = [](Type type) -> std::string { return type.kind == Type::half ? "f16" : "bf16"; };
  auto is_integer = [](Type type) { return type.kind == Type::unsigned_integer || type.kind == Type::signed_integer; };
  if (i.has("satfinite")) unknown(i);

  if (to.is_short_float()) {
    std::string function = cat(name(to), "_of_f32", towards == "ROUND_ZERO" ? "_towards_zero" : "");
    if (!towards.empty() && towards != "ROUND_ZERO") unknown(i);
    auto finish = [&](const std::string& value) {
      std::string result = cat(function, "(", value, ")");
      return i.has("relu") ? cat("relu_", name(to), "(", result, ")") : result;
    };
    if (to.packed) {
      if (from != F32) unknown(i);
      return write(o[0], to, cat("(u32)", finish(in(1)), " << 16 | ", finish(in(2))));
    }
    if (from == F32) return write(o[0], to, finish(in(1)));
    // Through a wider type without a second rounding.
    if (from == F64 || is_integer(from)) {
      if (from.width == 64 && is_integer(from)) unknown(i);
      return write(o[0], to, finish(cat("odd_f32_of_f64((f64)", in(1), ", 0)")));
    }
    if (from.is_short_float() && !from.packed) {
      std::string value = cat("f32_of_", name(from), "(", in(1), ")");
      if (!integral.empty()) value = cat("__builtin_", integral, "f(", value, ")");
      return write(o[0], to, finish(value));
    }
    unknown(i);
  }
  if (to.kind == Type::tensorfloat) {
    if (from != F32 || !(i.has("rna") || i.has("rn") || i.has("rz"))) unknown(i);
    return write(o[0], B32, cat("tf32_of_f32(", in(1), ", ", i.has("rna") ? 0 : i.has("rn") ? 1 : 2, ")"));
  }
  std::string source = in(1);
  Type source_type = from;
  if (from.is_short_float() && !from.packed) {
    source = cat("f32_of_", name(from), "(", source, ")");
    source_type = F32;
  }
  auto finish = [&](std::string value) {
    if (i.has("sat")) value = cat("saturate_f", to.width, "(", value, ")");
    if (i.has("ftz") && to == F32) value = cat("ftz(", value, ")");
    return write(o[0], to, value);
  };
  if (to.is_float() && source_type.is_float()) {
    if (to == source_type)
      return finish(integral.empty() ? source : cat("__builtin_", integral, to == F32 ? "f(" : "(", source, ")"));
    if (to == F64) return finish(cat("(f64)", source));
    return finish(towards.empty() ? cat("(f32)", source) : cat("f32_of_f64_rounded(", source, ", ", towards, ")"));
  }
  if (to.is_float() && is_integer(source_type)) {
    if (towards.empty()) return finish(cat("(", c_type(to), ")", source));
    std::string sign = source_type.is_signed() ? "s" : "u";
    return finish(cat("f", to.width, "_of_", sign, "64_rounded(", source, ", ", towards, ")"));
  }
  if (is_integer(to) && source_type.is_float()) {
    std::string value = cat("(f64)", source);
    if (!integral.empty()) value = cat("__builtin_", integral, "(", value, ")");
    bool wide = to.width == 64 || source_type == F64;  // decides the result for NaN
    if (to.is_signed()) return write(o[0], to, cat("integer_s(", value, ", ", to.width, ", ", wide ? 1 : 0, ")"));
    return write(o[0], to, cat("integer_u(", value, ", ", to.width, ", ", wide ? 1 : 0, ")"));
  }
  if (is_integer(to) && is_integer(source_type)) {
    if (!i.has("sat")) return write(o[0], to, cat("(", c_type(to), ")", source));
    if (from.width == 64 && !from.is_signed())
      return write(o[0], to, cat("clamp_u64(", source, ", ", to.is_signed() ? 1 : 0, ", ", to.width, ")"));
    return write(o[0], to, cat("clamp_s64((s64)", source, ", ", to.is_signed() ? 1 : 0, ", ", to.width, ")"));
  }
  unknown(i);
}

// Generic addresses of global, local and constant memory are host addresses; shared memory has a window.
std::string FunctionEmitter::convert_address(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  Type type = i.type();
  std::string value = read(o.at(1), type);
  if (space_of(i) != SPACE_SHARED || type.width != 64) return write(o[0], type, value);
  return write(o[0], type, cat(i.has("to") ? "(u32)" : "SHARED_WINDOW | (u32)", value));
}

std::string FunctionEmitter::is_in_space(const Instruction& i) {
  std::string shared = cat("(", read(i.operands.at(1), U64), " >> 32 == SHARED_WINDOW >> 32)");
  int space = space_of(i);
  if (space == SPACE_SHARED) return write(i.operands[0], PREDICATE, shared);
  if (space == SPACE_LOCAL) return write(i.operands[0], PREDICATE, cat("is_local(me, ", read(i.operands[1], U64), ")"));
  if (space != SPACE_GLOBAL) unknown(i);
  return write(i.operands[0], PREDICATE, cat("!", shared, " && !is_local(me, ", read(i.operands[1], U64), ")"));
}

std::string FunctionEmitter::comparison(const Instruction& i, const std::string& operation, Type type,
                                        const std::string& a, const std::string& b) {
  static const std::map<std::string, std::string> signs = {
      {"eq", " == "}, {"ne", " != "}, {"lt", " < "},  {"le", " <= "}, {"gt", " > "},
      {"ge", " >= "}, {"lo", " < "},  {"ls", " <= "}, {"hi", " > "},  {"hs", " >= "}};
  bool floating = type.is_float() || type.is_short_float();
  if (!floating) {
    auto sign = signs.find(operation);
    if (sign == signs.end()) unknown(i, "comparison of");
    bool unsigned_only = one_of(operation, "lo ls hi hs");
    std::string cast = unsigned_only ? cat("(", c_type(unsigned_type(type.width)), ")") : "";
    return cat("(", cast, a, sign->second, cast, b, ")");
  }
  // Ordered comparisons are false for NaN; those ending in u are true.
  if (operation == "num") return cat("!__builtin_isunordered(", a, ", ", b, ")");
  if (operation == "nan") return cat("__builtin_isunordered(", a, ", ", b, ")");
  if (operation == "ne") return cat("__builtin_islessgreater(", a, ", ", b, ")");
  if (operation == "equ") return cat("!__builtin_islessgreater(", a, ", ", b, ")");
  if (operation == "neu") return cat("(", a, " != ", b, ")");
  if (operation == "ltu") return cat("!(", a, " >= ", b, ")");
  if (operation == "leu") return cat("!(", a, " > ", b, ")");
  if (operation == "gtu") return cat("!(", a, " <= ", b, ")");
  if (operation == "geu") return cat("!(", a, " < ", b, ")");
  auto sign = signs.find(operation);
  if (sign == signs.end() || !one_of(operation, "eq lt le gt ge")) unknown(i, "comparison of");
  return cat("(", a, sign->second, b, ")");
}

// setp.operation[.and|.or|.xor][.ftz].type p[|q], a, b[, c]: p = compare op c, q = !compare op c.
std::string FunctionEmitter::compare(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  if (type.packed) unknown(i);
  auto in = [&](size_t n) {
    std::string value = read(o.at(n), type);
    if (type.is_short_float()) return cat(type.kind == Type::half ? "f32_of_f16(" : "f32_of_bf16(", value, ")");
    return i.has("ftz") && type == F32 ? cat("ftz(", value, ")") : value;
  };
  count(type.is_float() || type.is_short_float() ? COUNT_FLOATING : COUNT_INTEGER);
  std::string test = comparison(i, i.parts.at(1), type, in(1), in(2));
  std::vector<std::string> results = split(o[0], '|');
  std::string sign = i.has("and") ? " & " : i.has("or") ? " | " : i.has("xor") ? " ^ " : "";
  if (sign.empty() && results.size() == 1) return write(results[0], PREDICATE, test);
  std::string text = cat("{ pred test = ", test, sign.empty() ? "" : cat(", other = ", read(o.at(3), PREDICATE)), ";");
  std::string combined = sign.empty() ? "" : sign + "other";
  text += " " + write(results[0], PREDICATE, cat("test", combined));
  if (results.size() > 1) text += " " + write(results[1], PREDICATE, cat("!test", combined));
  return text + " }";
}

// set.operation.dtype.stype d, a, b: all ones or 1.0 where true.
std::string FunctionEmitter::set_value(const Instruction& i) {
  std::vector<Type> types = i.types();
  const std::vector<std::string>& o = i.operands;
  if (types.size() != 2 || o.size() != 3 || types[1].packed || types[1].is_short_float()) unknown(i);
  auto in = [&](size_t n) { return i.has("ftz") ? cat("ftz(", read(o[n], types[1]), ")") : read(o[n], types[1]); };
  std::string test = comparison(i, i.parts.at(1), types[1], in(1), in(2));
  return write(o[0], types[0], cat(test, types[0] == F32 ? " ? 1.0f : 0.0f" : " ? -1 : 0"));
}

std::string FunctionEmitter::select(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  return write(o[0], type, cat(read(o.at(3), PREDICATE), " ? ", read(o.at(1), type), " : ", read(o.at(2), type)));
}

// slct.dtype.{s32,f32} d, a, b, c: a where c >= 0.
std::string FunctionEmitter::select_by_sign(const Instruction& i) {
  std::vector<Type> types = i.types();
  if (types.size() != 2) unknown(i);
  const std::vector<std::string>& o = i.operands;
  std::string c = read(o.at(3), types[1]);
  if (i.has("ftz")) c = cat("ftz(", c, ")");
  return write(o[0], types[0], cat(c, " >= 0 ? ", read(o.at(1), types[0]), " : ", read(o.at(2), types[0])));
}

}  // namespace emulator
