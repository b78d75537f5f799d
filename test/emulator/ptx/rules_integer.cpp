// Integer arithmetic: add sub mul mad min max abs neg div rem sad mul24, carries, dot products.
#include "emit.h"

namespace emulator {

std::string FunctionEmitter::integer_arithmetic(const Instruction& i) {
  Type type = i.type();
  if (type.kind != Type::unsigned_integer && type.kind != Type::signed_integer && type.kind != Type::bits)
    unknown(i, "type of");
  for (const char* floating : {"rn", "rz", "rm", "rp", "ftz", "NaN", "relu", "approx", "full"})
    if (i.has(floating)) unknown(i);
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  auto in = [&](size_t n) { return read(o.at(n), type); };
  bool is_signed = type.is_signed();
  Type wide = is_signed ? signed_type(type.width * 2) : unsigned_type(type.width * 2);

  // If the sign makes no difference, unsigned saves the compiler conversions.
  Type plain = unsigned_type(type.width);
  auto bits = [&](size_t n) { return read(o.at(n), plain); };
  if (one_of(name, "add sub")) {
    std::string sign = name == "add" ? " + " : " - ";
    if (!i.has("sat")) return write(o[0], plain, bits(1) + sign + bits(2));
    if (type != signed_type(32)) unknown(i);
    return write(o[0], type, cat("saturate_s32((s64)", in(1), sign, in(2), ")"));
  }
  if (name == "mul24" || name == "mad24") {
    if (i.has("sat")) unknown(i);
    // The upper or lower 32 bits of 48.
    std::string cast = cat("(", c_type(wide), ")");
    auto low24 = [&](size_t n) {
      return is_signed ? cat(cast, "((s32)(", read(o.at(n), U32), " << 8) >> 8)")
                       : cat(cast, "(", in(n), " & 0xffffffu)");
    };
    std::string product = cat("(", c_type(type), ")(", low24(1), " * ", low24(2), i.has("hi") ? " >> 16)" : ")");
    return write(o[0], type, cat(product, name == "mad24" ? " + " + in(3) : ""));
  }
  if (name == "mul" || name == "mad") {
    if (i.has("sat")) unknown(i);
    bool adds = name == "mad";
    if (i.has("wide")) {
      if (type.width > 32) unknown(i);
      std::string cast = cat("(", c_type(wide), ")");
      return write(o[0], wide, cat(cast, in(1), " * ", cast, in(2), adds ? " + " + read(o.at(3), wide) : ""));
    }
    if (!i.has("hi")) return write(o[0], plain, cat(bits(1), " * ", bits(2), adds ? " + " + bits(3) : ""));
    std::string product;
    if (type.width == 64)
      product = cat(is_signed ? "multiply_high_s64(" : "multiply_high_u64(", in(1), ", ", in(2), ")");
    else product = cat("((", c_type(wide), ")", in(1), " * (", c_type(wide), ")", in(2), " >> ", type.width, ")");
    return write(o[0], type, cat(adds ? "(" : "", product, adds ? ") + " + in(3) : ""));
  }
  if (name == "min" || name == "max") {
    std::string sign = name == "min" ? " < " : " > ";
    if (i.has("relu") || o.size() != 3) unknown(i);
    return write(o[0], type, cat(in(1), sign, in(2), " ? ", in(1), " : ", in(2)));
  }
  if (name == "abs") return write(o[0], type, cat(in(1), " < 0 ? -", in(1), " : ", in(1)));
  if (name == "neg") return write(o[0], type, cat("-", in(1)));
  if (name == "sad")
    return write(o[0], type,
                 cat("(", in(1), " < ", in(2), " ? ", in(2), " - ", in(1), " : ", in(1), " - ", in(2), ") + ", in(3)));
  unknown(i);
}

// .cc sets the carry; addc, subc and madc use it. For a difference the carry is the borrow.
std::string FunctionEmitter::carry_arithmetic(const Instruction& i) {
  Type type = i.type();
  if (type.width != 32 && type.width != 64) unknown(i);
  type = unsigned_type(type.width);
  const std::vector<std::string>& o = i.operands;
  const std::string& name = i.mnemonic();
  std::string wide = type.width == 64 ? "unsigned __int128" : "u64";
  auto in = [&](size_t n) { return cat("(", wide, ")", read(o.at(n), type)); };
  std::string carry_in = one_of(name, "addc subc madc") ? "carry" : "0";
  std::string sum;
  if (one_of(name, "add addc")) {
    sum = cat(in(1), " + ", in(2), " + ", carry_in);
  } else if (one_of(name, "sub subc")) {
    sum = cat(in(1), " - ", in(2), " - ", carry_in);
  } else if (one_of(name, "mad madc") && !i.type().is_signed()) {
    std::string product = cat("(", in(1), " * ", in(2), ")");
    if (i.has("hi")) product = cat("(", product, " >> ", type.width, ")");
    else if (i.has("lo")) product = cat("(", wide, ")(u", type.width, ")", product);
    else unknown(i);
    sum = cat(product, " + ", in(3), " + ", carry_in);
  } else {
    unknown(i);
  }
  std::string set_carry = i.has("cc") ? cat("carry = (u32)(sum >> ", type.width, ") & 1; ") : "";
  return cat("{ ", wide, " sum = ", sum, "; ", set_carry, write(o[0], type, cat("(u", type.width, ")sum")), " }");
}

std::string FunctionEmitter::divide(const Instruction& i) {
  Type type = i.type();
  if (type.kind == Type::floating) return float_arithmetic(i);
  if (type.width == 16) {
    Type wide = type.is_signed() ? signed_type(32) : U32;
    return write(i.operands[0], type,
                 cat(i.mnemonic(), "_", c_type(wide), "(", read(i.operands.at(1), type), ", ",
                     read(i.operands.at(2), type), ")"));
  }
  if (type.width < 32 || type.is_short_float()) unknown(i);
  count(COUNT_INTEGER);
  return write(
      i.operands[0], type,
      cat(i.mnemonic(), "_", c_type(type), "(", read(i.operands.at(1), type), ", ", read(i.operands.at(2), type), ")"));
}

// dp4a.atype.btype d, a, b, c: four byte products added to c.
std::string FunctionEmitter::dot_product(const Instruction& i) {
  std::vector<Type> types = i.types();
  if (types.size() != 2 || types[0].width != 32 || types[1].width != 32 || i.mnemonic() != "dp4a") unknown(i);
  std::string a = types[0].is_signed() ? "(s8)" : "(u8)", b = types[1].is_signed() ? "(s8)" : "(u8)", sum;
  for (int byte = 0; byte < 4; byte++)
    sum += cat(" + (s32)", a, "(x >> ", byte * 8, ") * (s32)", b, "(y >> ", byte * 8, ")");
  const std::vector<std::string>& o = i.operands;
  return cat("{ u32 x = ", read(o.at(1), U32), ", y = ", read(o.at(2), U32), "; ",
             write(o[0], U32, cat(read(o.at(3), U32), sum)), " }");
}

}  // namespace emulator
