// Operands: registers, immediates, special registers, addresses; and the sites named in reports.
#include <cstdlib>
#include <cstring>

#include "emit.h"

namespace emulator {

const FunctionEmitter::Register* FunctionEmitter::find_register(const std::string& name) const {
  for (size_t i = scopes_.size(); i-- > 0;)
    if (auto found = scopes_[i].find(name); found != scopes_[i].end()) return &found->second;
  return nullptr;
}

const Symbol* FunctionEmitter::find_symbol(const std::string& name) const {
  if (auto own = symbols_.find(name); own != symbols_.end()) return &own->second;
  auto found = module_.symbols.find(name);
  return found == module_.symbols.end() ? nullptr : &found->second;
}

std::string FunctionEmitter::special_register(const std::string& name) const {
  static const std::map<std::string, std::string> registers = {
      {"%tid.x", "me->index.x"},
      {"%tid.y", "me->index.y"},
      {"%tid.z", "me->index.z"},
      {"%ntid.x", "me->geometry->block.x"},
      {"%ntid.y", "me->geometry->block.y"},
      {"%ntid.z", "me->geometry->block.z"},
      {"%ctaid.x", "me->geometry->index.x"},
      {"%ctaid.y", "me->geometry->index.y"},
      {"%ctaid.z", "me->geometry->index.z"},
      {"%nctaid.x", "me->geometry->grid.x"},
      {"%nctaid.y", "me->geometry->grid.y"},
      {"%nctaid.z", "me->geometry->grid.z"},
      {"%laneid", "me->lane"},
      {"%warpid", "(me->flat >> 5)"},
      {"%nwarpid", "32u"},
      {"WARP_SZ", "32u"},
      {"%smid", "0u"},
      {"%nsmid", "1u"},
      {"%gridid", "0ull"},
      {"%lanemask_eq", "(1u << me->lane)"},
      {"%lanemask_lt", "((1u << me->lane) - 1)"},
      {"%lanemask_le", "((2u << me->lane) - 1)"},
      {"%lanemask_gt", "(~((2u << me->lane) - 1))"},
      {"%lanemask_ge", "(~((1u << me->lane) - 1))"},
      {"%dynamic_smem_size", "me->geometry->dynamic_size"},
      {"%clock", "((u32)me->runtime->clock())"},
      {"%clock64", "me->runtime->clock()"},
      {"%globaltimer", "me->runtime->clock()"},
  };
  auto found = registers.find(name);
  return found == registers.end() ? "" : found->second;
}

std::string FunctionEmitter::symbol_address(const std::string& name) {
  const Symbol* symbol = find_symbol(name);
  if (!symbol) throw PtxError(cat("unknown name ", name));
  switch (symbol->kind) {
    case Symbol::shared: return cat(symbol->variable.offset, "u");
    case Symbol::dynamic_shared: uses_dynamic_shared = true; return "me->geometry->dynamic_offset";
    case Symbol::kernel_parameter: return cat("((u64)parameters + ", symbol->variable.offset, ")");
    default: return cat("((u64)", symbol->c_name, ")");
  }
}

std::string FunctionEmitter::immediate(const std::string& text, Type type) const {
  char* end = nullptr;
  uint64_t value = 0;
  bool is_hexadecimal_float = text.size() > 2 && text[0] == '0' && strchr("fFdD", text[1]);
  if (is_hexadecimal_float) {
    value = strtoull(text.c_str() + 2, &end, 16);
    if (type.is_float()) {
      bool single = text[1] == 'f' || text[1] == 'F';
      if (single != (type.width == 32)) throw PtxError(cat("immediate ", text, " of the wrong width"));
      return cat(single ? "to_f32(" : "to_f64(", value, single ? "u)" : "ull)");
    }
  } else if (type.is_float()) {
    double number = strtod(text.c_str(), &end);
    char digits[64];
    snprintf(digits, sizeof digits, "%a", number);
    return cat("((f", type.width, ")", digits, ")");
  } else {
    value = text[0] == '-' ? (uint64_t)strtoll(text.c_str(), &end, 0) : strtoull(text.c_str(), &end, 0);
    if (*end == 'U') end++;
  }
  if (!end || *end) throw PtxError(cat("operand ", text));
  if (type.kind == Type::predicate) return value ? "1" : "0";
  if (type.width == 64) return type.is_signed() ? cat("((s64)", value, "ull)") : cat(value, "ull");
  std::string narrow = cat((uint32_t)value, "u");
  return type.width == 32 && !type.is_signed() ? narrow : cat("((", c_type(type), ")", narrow, ")");
}

std::string FunctionEmitter::read(const std::string& operand, Type type) {
  if (operand.empty()) throw PtxError("an operand is missing");
  if (operand[0] == '!') return cat("(!", read(operand.substr(1), type), ")");
  if (std::string special = special_register(operand); !special.empty())
    return type == U32 || type == B32 ? special : cat("((", c_type(type), ")", special, ")");
  if (isdigit((unsigned char)operand[0]) || operand[0] == '-') return immediate(operand, type);
  if (const Register* found = find_register(operand)) {
    const std::string& name = found->c_name;
    Type own = found->type;
    if (own.kind == Type::predicate || type.kind == Type::predicate || c_type(own) == c_type(type)) return name;
    if (own.is_float() && type.is_float()) throw PtxError(cat(operand, " read as another floating type"));
    if (own.is_float()) return cat("((", c_type(type), ")bits_of_f", own.width, "(", name, "))");
    if (type.is_float()) return cat("to_f", type.width, "(", name, ")");
    return cat("((", c_type(type), ")", name, ")");
  }
  if (find_symbol(operand)) return cat("((", c_type(type), ")", symbol_address(operand), ")");
  throw PtxError(cat("operand ", operand));
}

std::string FunctionEmitter::write(const std::string& operand, Type type, const std::string& value) {
  if (operand == "_") return cat("(void)(", value, ");");
  const Register* found = find_register(operand);
  if (!found) throw PtxError(cat("unknown register ", operand));
  Type own = found->type;
  const std::string& name = found->c_name;
  if (own.kind == Type::predicate || c_type(own) == c_type(type)) return cat(name, " = ", value, ";");
  if (own.is_float() && type.is_float()) throw PtxError(cat(operand, " written as another floating type"));
  if (own.is_float()) return cat(name, " = to_f", own.width, "((u", own.width, ")(", value, "));");
  if (type.is_float()) return cat(name, " = bits_of_f", type.width, "(", value, ");");
  // First convert to the instruction's type, whose sign decides how the register's upper bits are filled.
  return cat(name, " = (", c_type(own), ")(", c_type(type), ")(", value, ");");
}

std::vector<std::string> FunctionEmitter::elements(const std::string& operand) {
  if (operand.empty() || operand[0] != '{') return {operand};
  return split(std::string_view(operand).substr(1, operand.size() - 2), ',');
}

// "[base+offset]" or "[base]": a u32 for shared memory, else a u64.
std::string FunctionEmitter::address(const std::string& operand, int space) {
  if (operand.size() < 3 || operand[0] != '[') throw PtxError(cat("address ", operand));
  std::string inside = trim(operand.substr(1, operand.size() - 2)), base = inside, offset;
  if (size_t sign = inside.find_first_of("+-", 1); sign != std::string::npos) {
    base = trim(inside.substr(0, sign));
    offset = trim(inside.substr(inside[sign] == '+' ? sign + 1 : sign));
  }
  Type type = space == SPACE_SHARED ? U32 : U64;
  std::string value = find_symbol(base) && !find_register(base) ? symbol_address(base) : read(base, type);
  if (offset.empty() || offset == "0") return value;
  return cat("(", c_type(type), ")(", value, " + ", immediate(offset, type), ")");
}

int FunctionEmitter::space_of(const Instruction& instruction) const {
  for (const std::string& part : instruction.parts) {
    if (part == "global") return SPACE_GLOBAL;
    if (part == "shared" || part == "shared::cta") return SPACE_SHARED;
    if (part == "local") return SPACE_LOCAL;
    if (part == "const") return SPACE_CONST;
    if (starts_with(part, "shared::")) unknown(instruction, "state space of");
  }
  return SPACE_GENERIC;
}

std::string FunctionEmitter::site(const Instruction& instruction, bool logged) {
  auto file = [&](int number) {
    auto found = module_.files.find(number);
    return found == module_.files.end() ? std::string("?") : found->second;
  };
  module_.sites.push_back(cat("{\"", instruction.opcode, "\", \"", file(where_.file), "\", \"", file(where_.outer_file),
                              "\", ", where_.line, ", ", where_.outer_line, ", ", logged ? module_.logs++ : -1, "}"));
  return cat(module_.sites.size() - 1);
}

void FunctionEmitter::count(Counted kind, int flops) {
  counted_ = kind;
  flops_ = flops;
}

void FunctionEmitter::unknown(const Instruction& instruction, const char* what) const {
  std::string operands;
  for (const std::string& operand : instruction.operands) operands += cat(operands.empty() ? " " : ", ", operand);
  throw PtxError(cat("unknown ", what, " ", instruction.opcode, operands));
}

}  // namespace emulator
