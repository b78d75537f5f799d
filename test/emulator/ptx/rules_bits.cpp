// Bits: logic, shifts, fields, byte permutation, counts.
#include "emit.h"

namespace emulator {

std::string FunctionEmitter::logic(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  std::string a = read(o.at(1), type);
  if (name == "not") return write(o[0], type, cat(type == PREDICATE ? "!" : "~", a));
  if (name == "cnot") return write(o[0], type, cat(a, " == 0"));
  const char* sign = name == "and" ? " & " : name == "or" ? " | " : " ^ ";
  return write(o[0], type, cat(a, sign, read(o.at(2), type)));
}

// lop3 d, a, b, c, table: bit k of the table is the result if (a, b, c) form the number k. Written as the minterms, or as the
// complement's if those are fewer.
std::string FunctionEmitter::three_input_logic(const Instruction& i) {
  if (i.opcode != "lop3.b32") unknown(i);
  const std::vector<std::string>& o = i.operands;
  int table = std::stoi(o.at(4), nullptr, 0) & 255;
  bool complement = __builtin_popcount((unsigned)table) > 4;
  int terms = complement ? ~table & 255 : table;
  std::string sum;
  for (int k = 0; k < 8; k++)
    if (terms >> k & 1)
      sum += cat(sum.empty() ? "" : " | ", "(", k & 4 ? "a" : "~a", " & ", k & 2 ? "b" : "~b", " & ",
                 k & 1 ? "c" : "~c", ")");
  if (sum.empty()) sum = "0u";
  static const std::map<int, std::string> well_known = {
      {0xc0, "a & b"},
      {0xfc, "a | b"},
      {0x3c, "a ^ b"},
      {0x96, "a ^ b ^ c"},
      {0x80, "a & b & c"},
      {0xfe, "a | b | c"},
      {0xe8, "(a & b) | (c & (a | b))"},
      {0xca, "(a & b) | (~a & c)"},
      {0xea, "(a & b) | c"},
      {0xf8, "a | (b & c)"},
      {0x6a, "(a & b) ^ c"},
  };
  if (auto known = well_known.find(table); known != well_known.end()) sum = known->second;
  else if (complement) sum = cat("~(", sum, ")");
  return cat("{ u32 a = ", read(o.at(1), B32), ", b = ", read(o.at(2), B32), ", c = ", read(o.at(3), B32), "; ",
             write(o[0], B32, sum), " }");
}

// Amounts above the width clamp: all bits are shifted out, or all become the sign.
std::string FunctionEmitter::shift(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  std::string a = read(o.at(1), type), amount = read(o.at(2), U32);
  bool left = i.mnemonic() == "shl", constant = isdigit((unsigned char)o[2][0]) != 0;
  int width = type.width;
  if (width < 16 || width > 64) unknown(i);
  const char* sign = left ? " << " : " >> ";
  if (constant && std::stoul(o[2], nullptr, 0) < (unsigned long)width) return write(o[0], type, cat(a, sign, amount));
  if (type.is_signed() && !left)
    return cat("{ u32 n = ", amount, "; ",
               write(o[0], type, cat(a, " >> (n > ", width - 1, "u ? ", width - 1, "u : n)")), " }");
  return cat("{ u32 n = ", amount, "; ", write(o[0], type, cat("n > ", width - 1, "u ? 0 : ", a, sign, "n")), " }");
}

std::string FunctionEmitter::funnel_shift(const Instruction& i) {
  if (i.type() != B32) unknown(i);
  const std::vector<std::string>& o = i.operands;
  std::string amount = read(o.at(3), U32);
  std::string n = i.has("clamp") ? cat("(n > 32 ? 32 : n)") : "(n & 31)";
  std::string both = cat("((u64)", read(o.at(2), B32), " << 32 | ", read(o.at(1), B32), ")");
  std::string value = i.has("l") ? cat("(u32)((", both, " << ", n, ") >> 32)") : cat("(u32)(", both, " >> ", n, ")");
  return cat("{ u32 n = ", amount, "; ", write(o[0], B32, value), " }");
}

// prmt d, a, b, c: byte k of d is byte (nibble k of c) of b:a.
std::string FunctionEmitter::permute_bytes(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  std::string a = read(o.at(1), B32), b = read(o.at(2), B32);
  if (i.opcode != "prmt.b32") {
    if (i.parts.size() != 3 || !one_of(i.parts[2], "f4e b4e rc8 ecl ecr rc16")) unknown(i);
    return write(o[0], B32,
                 cat("permute_bytes(", a, ", ", b, ", selector_", i.parts[2], "(", read(o.at(3), B32), " & 3))"));
  }
  if (!isdigit((unsigned char)o.at(3)[0]))
    return write(o[0], B32, cat("permute_bytes(", a, ", ", b, ", ", read(o[3], B32), ")"));
  unsigned selector = (unsigned)std::stoul(o[3], nullptr, 0);
  if (selector & 0x8888) return write(o[0], B32, cat("permute_bytes(", a, ", ", b, ", ", selector, "u)"));
  // Runs of consecutive bytes become one shift and mask.
  std::string sum;
  for (int byte = 0; byte < 4;) {
    int source = selector >> 4 * byte & 7, length = 1;
    while (byte + length < 4 && source + length < 8 && (int)(selector >> 4 * (byte + length) & 7) == source + length)
      length++;
    std::string piece = cat("(", source ? cat("x >> ", source * 8) : "x", ")");
    piece = length == 4 ? cat("(u32)", piece) : cat("((u32)", piece, " & ", (1u << 8 * length) - 1, "u)");
    sum += cat(sum.empty() ? "" : " | ", piece, byte ? cat(" << ", byte * 8) : "");
    byte += length;
  }
  return cat("{ u64 x = (u64)", b, " << 32 | ", a, "; ", write(o[0], B32, sum), " }");
}

std::string FunctionEmitter::bit_field(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  if (type.width != 32 && type.width != 64) unknown(i);
  if (name == "bfe")
    return write(o[0], type,
                 cat("extract_bits_", c_type(type), "(", read(o.at(1), type), ", ", read(o.at(2), U32), ", ",
                     read(o.at(3), U32), ")"));
  if (name == "bfi")
    return write(o[0], type,
                 cat("insert_bits(", read(o.at(1), type), ", ", read(o.at(2), type), ", ", read(o.at(3), U32), ", ",
                     read(o.at(4), U32), ", ", type.width, ")"));
  if (name == "bmsk" && (i.has("clamp") || i.has("wrap")))
    return write(o[0], B32,
                 cat(i.has("clamp") ? "bit_mask_clamped(" : "bit_mask_wrapped(", read(o.at(1), U32), ", ",
                     read(o.at(2), U32), ")"));
  unknown(i);
}

std::string FunctionEmitter::bit_count(const Instruction& i) {
  Type type = i.type();
  const std::string& name = i.mnemonic();
  const std::vector<std::string>& o = i.operands;
  if (type.width != 32 && type.width != 64) unknown(i);
  bool wide = type.width == 64;
  std::string a = read(o.at(1), unsigned_type(type.width)), ll = wide ? "ll" : "";
  if (name == "popc") return write(o[0], U32, cat("(u32)__builtin_popcount", ll, "(", a, ")"));
  if (name == "clz") return write(o[0], U32, cat(a, " ? (u32)__builtin_clz", ll, "(", a, ") : ", type.width, "u"));
  if (name == "brev") return write(o[0], type, cat("reverse_bits_u", type.width, "(", a, ")"));
  // bfind looks for the highest bit that differs from the sign.
  std::string x = type.is_signed() ? cat("((s", type.width, ")", a, " < 0 ? ~", a, " : ", a, ")") : a;
  std::string leading = cat("(u32)__builtin_clz", ll, "(x)");
  return cat(
      "{ u", type.width, " x = ", x, "; ",
      write(o[0], U32, cat("x ? ", i.has("shiftamt") ? leading : cat(type.width - 1, "u - ", leading), " : ~0u")),
      " }");
}

}  // namespace emulator
