// Cooperation of threads: barriers and warp instructions; and control flow.
#include "emit.h"

namespace emulator {

std::string FunctionEmitter::barrier(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  count(COUNT_BARRIER);
  if (i.has("cluster")) unknown(i);
  if (i.has("warp")) return cat("me->runtime->syncwarp(me, ", read(o.at(0), U32), ", ", site(i), ");");
  auto threads = [&](size_t n) { return n < o.size() ? read(o[n], U32) : std::string("0u"); };
  if (i.has("sync")) return cat("me->runtime->barrier(me, ", read(o.at(0), U32), ", ", threads(1), ", ", site(i), ");");
  if (i.has("arrive"))
    return cat("me->runtime->barrier_arrive(me, ", read(o.at(0), U32), ", ", read(o.at(1), U32), ", ", site(i), ");");
  if (!i.has("red")) unknown(i);
  bool popc = i.has("popc"), counted = o.size() == 4;
  const char* operation = popc ? "BARRIER_POPC" : i.has("and") ? "BARRIER_AND" : "BARRIER_OR";
  return write(o[0], popc ? U32 : PREDICATE,
               cat("me->runtime->barrier_reduce(me, ", read(o.at(1), U32), ", ", counted ? threads(2) : "0u", ", ",
                   operation, ", ", read(o.at(counted ? 3 : 2), PREDICATE), ", ", site(i), ")"));
}

std::string FunctionEmitter::shuffle(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (!i.has("sync") || i.type() != B32) unknown(i);
  count(COUNT_WARP);
  const char* mode = i.has("up")     ? "SHUFFLE_UP"
                     : i.has("down") ? "SHUFFLE_DOWN"
                     : i.has("bfly") ? "SHUFFLE_XOR"
                                     : "SHUFFLE_INDEX";
  std::vector<std::string> results = split(o.at(0), '|');
  bool wants_range = results.size() > 1;
  std::string value =
      cat("me->runtime->shuffle(me, ", mode, ", ", read(o.at(1), B32), ", ", read(o.at(2), B32), ", ",
          read(o.at(3), B32), ", ", read(o.at(4), B32), ", ", wants_range ? "&in_range" : "0", ", ", site(i), ")");
  if (!wants_range) return write(results[0], B32, value);
  return cat("{ pred in_range; ", write(results[0], B32, value), " ", write(results[1], PREDICATE, "in_range"), " }");
}

std::string FunctionEmitter::vote(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (!i.has("sync")) unknown(i);
  count(COUNT_WARP);
  bool ballot = i.has("ballot");
  const char* mode = ballot ? "VOTE_BALLOT" : i.has("any") ? "VOTE_ANY" : i.has("all") ? "VOTE_ALL" : "VOTE_UNIFORM";
  return write(o.at(0), ballot ? B32 : PREDICATE,
               cat("me->runtime->vote(me, ", mode, ", ", read(o.at(1), PREDICATE), ", ", read(o.at(2), B32), ", ",
                   site(i), ")"));
}

std::string FunctionEmitter::match(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  count(COUNT_WARP);
  std::vector<std::string> results = split(o.at(0), '|');
  std::string text =
      cat("{ pred same; u32 value = me->runtime->match(me, ", i.has("all") ? 1 : 0, ", ", read(o.at(1), i.type()), ", ",
          read(o.at(2), B32), ", &same, ", site(i), "); ", write(results[0], B32, "value"));
  if (results.size() > 1) text += " " + write(results[1], PREDICATE, "same");
  return text + " }";
}

std::string FunctionEmitter::redux(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  Type type = i.type();
  if (type.is_float() || type.width != 32) unknown(i);
  count(COUNT_WARP);
  bool is_signed = type.is_signed();
  const char* operation = i.has("add")   ? "REDUCE_ADD"
                          : i.has("and") ? "REDUCE_AND"
                          : i.has("or")  ? "REDUCE_OR"
                          : i.has("xor") ? "REDUCE_XOR"
                          : i.has("min") ? (is_signed ? "REDUCE_MIN_S" : "REDUCE_MIN_U")
                                         : (is_signed ? "REDUCE_MAX_S" : "REDUCE_MAX_U");
  return write(o.at(0), B32,
               cat("me->runtime->redux(me, ", operation, ", ", read(o.at(1), B32), ", ", read(o.at(2), B32), ", ",
                   site(i), ")"));
}

std::string FunctionEmitter::active_mask(const Instruction& i) {
  count(COUNT_WARP);
  return write(i.operands.at(0), B32, "me->runtime->activemask(me)");
}

std::string FunctionEmitter::branch(const Instruction& i) {
  count(COUNT_CONTROL);
  return cat("goto ", identifier(i.operands.at(0)), ";");
}

std::string FunctionEmitter::indexed_branch(const Instruction& i) {
  count(COUNT_CONTROL);
  auto targets = targets_.find(i.operands.at(1));
  if (targets == targets_.end()) unknown(i, "targets of");
  std::string text = cat("switch (", read(i.operands[0], U32), ") {");
  for (size_t k = 0; k < targets->second.size(); k++)
    text += cat(" case ", k, ": goto ", identifier(targets->second[k]), ";");
  return text + " default: __builtin_unreachable(); }";
}

std::string FunctionEmitter::call(const Instruction& i) {
  count(COUNT_CONTROL);
  const std::vector<std::string>& o = i.operands;
  auto inside = [](const std::string& list) { return split(std::string_view(list).substr(1, list.size() - 2), ','); };
  size_t at = 0;
  std::vector<std::string> results, arguments;
  if (!o.at(0).empty() && o[0][0] == '(') results = inside(o[at++]);
  const std::string& callee = o.at(at++);
  if (at < o.size() && o[at][0] == '(') arguments = inside(o[at]);
  auto memory = [&](const std::string& name) {
    const Symbol* symbol = find_symbol(name);
    if (!symbol || symbol->kind != Symbol::local_parameter) unknown(i, "operands of");
    return symbol->c_name;
  };
  auto pointer = [&](size_t n) { return cat("*(const char**)", memory(arguments.at(n))); };
  if (callee == "vprintf")
    return cat("*(u32*)", memory(results.at(0)), " = me->runtime->print(me, ", pointer(0), ", ", pointer(1), ");");
  if (callee == "__assertfail")
    return cat("me->runtime->assert_fail(me, ", pointer(0), ", ", pointer(1), ", *(u32*)", memory(arguments.at(2)),
               ", ", pointer(3), ");");
  if (!module_.functions.count(callee)) unknown(i, "function in");
  std::string text = cat("function_", identifier(callee), "(me");
  for (const auto* list : {&results, &arguments})
    for (const std::string& name : *list) text += ", " + memory(name);
  return text + ");";
}

std::string FunctionEmitter::leave(const Instruction& i) {
  count(COUNT_CONTROL);
  if (i.mnemonic() == "exit" && !function_.entry) unknown(i);
  return epilogue();
}

std::string FunctionEmitter::trap(const Instruction& i) {
  count(COUNT_CONTROL);
  return cat("me->runtime->trap(me, ", site(i), ");");
}

}  // namespace emulator
