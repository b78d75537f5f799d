// Loads, stores, atomics, asynchronous copies, fences.
#include "emit.h"

namespace emulator {
namespace {

bool in_parameter_space(const Instruction& i) {
  return i.has("param") || i.has("param::entry") || i.has("param::func");
}

const char* accessor(int space) {
  static const char* const names[] = {"GLOBAL_ACCESS", "SHARED_ACCESS", "LOCAL_ACCESS", "CONST_ACCESS",
                                      "GENERIC_ACCESS"};
  return names[space];
}

}  // namespace

std::string FunctionEmitter::load(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  std::vector<std::string> parts = elements(o.at(0));
  if (type.kind == Type::none || type.width > 64) unknown(i, "type of");
  std::string memory = c_type(type), at;
  if (in_parameter_space(i)) {
    at = cat("(char*)", address(o.at(1), SPACE_GENERIC));
  } else {
    count(COUNT_MEMORY);
    int space = space_of(i);
    at = cat(accessor(space), "(me, ", address(o.at(1), space), ", ", type.bytes() * parts.size(), ", ACCESS_READ, ",
             site(i, space != SPACE_LOCAL && space != SPACE_CONST), ")");
  }
  if (parts.size() == 1) return write(parts[0], type, cat("*(const ", memory, "*)(", at, ")"));
  std::string text = cat("{ const ", memory, "* at = (const ", memory, "*)(", at, ");");
  for (size_t k = 0; k < parts.size(); k++)
    if (parts[k] != "_") text += " " + write(parts[k], type, cat("at[", k, "]"));
  return text + " }";
}

std::string FunctionEmitter::store(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  std::vector<std::string> parts = elements(o.at(1));
  if (type.kind == Type::none || type.width > 64) unknown(i, "type of");
  std::string memory = c_type(type), at;
  if (in_parameter_space(i)) {
    at = cat("(char*)", address(o.at(0), SPACE_GENERIC));
  } else {
    count(COUNT_MEMORY);
    int space = space_of(i);
    at = cat(accessor(space), "(me, ", address(o.at(0), space), ", ", type.bytes() * parts.size(), ", ACCESS_WRITE, ",
             site(i, space != SPACE_LOCAL), ")");
  }
  if (parts.size() == 1) return cat("*(", memory, "*)(", at, ") = ", read(parts[0], type), ";");
  std::string text = cat("{ ", memory, "* at = (", memory, "*)(", at, ");");
  for (size_t k = 0; k < parts.size(); k++) text += cat(" at[", k, "] = ", read(parts[k], type), ";");
  return text + " }";
}

// atom and red, all by compare-and-swap: old and next are bits.
std::string FunctionEmitter::atomic(const Instruction& i) {
  Type type = i.type();
  const std::vector<std::string>& o = i.operands;
  bool returns = i.mnemonic() == "atom";
  size_t first = returns ? 1 : 0;
  int space = space_of(i);
  if (type.kind == Type::none || type.width < 16 || type.width > 64 || o.at(0)[0] == '{') unknown(i);
  count(COUNT_MEMORY);
  has_global_atomic |= space != SPACE_SHARED;
  std::string word = cat("u", type.width), next;
  auto has = [&](const char* operation) { return i.has(operation); };
  Type value = type.is_float() || type.is_short_float() ? bits_type(type.width) : type;
  std::string as = c_type(value);
  std::string old = cat("(", as, ")old"), b = cat("(", as, ")b");
  if (has("cas")) next = cat("old == b ? c : old");
  else if (has("exch")) next = "b";
  else if (type.is_float() && has("add")) {
    // In global memory the hardware flushes subnormal f32, in shared memory it doesn't.
    bool flush = type == F32 && space != SPACE_SHARED;
    std::string from = cat("to_f", type.width), to = cat("bits_of_f", type.width);
    next = flush ? cat(to, "(ftz(ftz(", from, "(old)) + ftz(", from, "(b))))")
                 : cat(to, "(", from, "(old) + ", from, "(b))");
  } else if (type.is_short_float() && (has("add") || has("min") || has("max"))) {
    std::string function = cat(has("add")   ? "add_"
                               : has("min") ? "min_"
                                            : "max_",
                               type.kind == Type::half ? "f16" : "bf16");
    next = type.packed ? cat("PAIRWISE2(", function, ", old, b)") : cat(function, "(old, b)");
  } else if (type.is_float()) unknown(i);
  else if (has("add")) next = "old + b";
  else if (has("and")) next = "old & b";
  else if (has("or")) next = "old | b";
  else if (has("xor")) next = "old ^ b";
  else if (has("min")) next = cat(old, " < ", b, " ? old : b");
  else if (has("max")) next = cat(old, " > ", b, " ? old : b");
  else if (has("inc")) next = "old >= b ? 0 : old + 1";
  else if (has("dec")) next = "old == 0 || old > b ? b : old - 1";
  else unknown(i);
  std::string at = cat(accessor(space), "(me, ", address(o.at(first), space), ", ", type.bytes(), ", ACCESS_ATOMIC, ",
                       site(i, true), ")");
  std::string swap = has("cas") ? cat(" ", word, " c = ", read(o.at(first + 2), bits_type(type.width)), ";") : "";
  return cat(
      "{ ", word, "* at = (", word, "*)(", at, "); ", word, " b = ", read(o.at(first + 1), bits_type(type.width)), ";",
      swap, " ", word, " old = *at; while (!__atomic_compare_exchange_n(at, &old, (", word, ")(", next,
      "), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); ", returns ? write(o[0], bits_type(type.width), "old") : "", " }");
}

std::string FunctionEmitter::async_copy(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (i.has("bulk")) return bulk_copy(i);
  if (!i.has("async") || i.has("tensor") || i.has("mbarrier")) unknown(i);
  count(COUNT_ASYNC);
  if (i.has("commit_group")) return "me->runtime->async_commit(me);";
  if (i.has("wait_group")) return cat("me->runtime->async_wait(me, ", read(o.at(0), U32), ");");
  if (i.has("wait_all")) return "me->runtime->async_commit(me); me->runtime->async_wait(me, 0);";
  if (!i.has("ca") && !i.has("cg")) unknown(i);
  std::string bytes = read(o.at(2), U32), source_bytes = bytes;
  if (o.size() > 3 && !i.has("L2::cache_hint")) {
    const Register* last = find_register(o[3]);
    if (last && last->type == PREDICATE) source_bytes = cat("(", last->c_name, " ? 0 : ", bytes, ")");
    else source_bytes = read(o[3], U32);
  }
  return cat("me->runtime->async_copy(me, ", address(o[0], SPACE_SHARED), ", ", address(o.at(1), SPACE_GLOBAL), ", ",
             bytes, ", ", source_bytes, ", ", site(i, true), ");");
}

std::string FunctionEmitter::fence(const Instruction& i) {
  count(COUNT_BARRIER);
  if (i.has("proxy")) {
    if (i.opcode != "fence.proxy.async" && i.opcode != "fence.proxy.async.shared::cta") unknown(i);
    return "me->runtime->proxy_fence(me);";
  }
  has_fence |= !i.has("cta");
  return ";";
}

// Hints that do not change results.
std::string FunctionEmitter::nothing(const Instruction&) {
  return ";";
}

std::string FunctionEmitter::sleep(const Instruction&) {
  count(COUNT_CONTROL);
  return "me->runtime->yield(me);";
}

}  // namespace emulator
