// Functions: scopes, declarations, basic blocks and their counters.
#include "emit.h"

namespace emulator {

// Local arrays are on the fiber's stack (runtime/fiber.cpp).
constexpr uint64_t MOST_LOCAL_BYTES = 64 << 10;
// Limits the array of matrix operands, which is on the same stack.
constexpr size_t MOST_MATRIX_STEPS = 64;

FunctionEmitter::FunctionEmitter(ModuleOutput& module, const Function& function, uint64_t shared_start)
    : shared_end(shared_start), module_(module), function_(function) {
  for (const Variable& result : function.results)
    symbols_[result.name] = {Symbol::local_parameter, result, identifier(result.name)};
  for (const Variable& parameter : function.parameters)
    symbols_[parameter.name] = {function.entry ? Symbol::kernel_parameter : Symbol::local_parameter, parameter,
                                identifier(parameter.name)};
}

std::string FunctionEmitter::signature() const {
  if (function_.entry)
    return cat("static void kernel_", identifier(function_.name), "(struct Thread* me, const char* parameters)");
  std::string text = cat("static void function_", identifier(function_.name), "(struct Thread* me");
  for (const Variable& result : function_.results) text += cat(", char* ", identifier(result.name));
  for (const Variable& parameter : function_.parameters) text += cat(", char* ", identifier(parameter.name));
  return text + ")";
}

std::string FunctionEmitter::run() {
  find_product_registers();
  for (const Statement& one : function_.body) {
    try {
      statement(one);
    } catch (const PtxError& error) {
      throw PtxError(cat(function_.name, ", line ", where_.line, ": ", error.what()));
    }
  }
  end_matrix_group();
  std::string text = signature() + " {\nu64* counts = me->counts;\n";
  for (const auto& [type, names] : registers_by_type_) {
    text += type;
    for (size_t i = 0; i < names.size(); i++) text += cat(i ? ", " : " ", names[i]);
    text += ";\n";
  }
  if (most_words_) text += cat("u32 words[", most_words_, "];\n");
  text += product_variables();
  text += "u32 carry = 0;\n" + arrays_ + code_ + epilogue() + "}\n";
  return text;
}

// Leaving the function ends its local memory.
std::string FunctionEmitter::epilogue() const {
  if (!local_bytes_) return "return;";
  return "me->frame = frame.caller; return;";
}

void FunctionEmitter::declare_variable(const Variable& declared) {
  Variable variable = declared;
  if (variable.space == "shared") {
    // Red zones on both sides, since PTX does not keep the bounds within generic and computed addresses.
    uint64_t alignment = std::max<uint64_t>(variable.alignment, 16);
    variable.offset = (shared_end + SHARED_RED_ZONE + alignment - 1) / alignment * alignment;
    shared_end = variable.offset + variable.size;
    shared_variables.push_back(variable);
    symbols_[variable.name] = {Symbol::shared, variable, ""};
    return;
  }
  bool local = variable.space == "local";
  std::string name = cat("memory_", identifier(variable.name), "_", scope_number_);
  arrays_ += cat("char ", name, "[", variable.size, "] __attribute__((aligned(16)));\n");
  if (local) {
    if (local_bytes_) throw PtxError("more than one local variable");
    local_bytes_ = variable.size;
    if (local_bytes_ > MOST_LOCAL_BYTES) throw PtxError(cat(local_bytes_, " bytes of local memory"));
    arrays_ +=
        cat("u8 written[", variable.size, "];\nstruct Frame frame;\nframe.low = (u64)", name,
            "; frame.high = frame.low + ", variable.size, "; frame.written = written; enter_frame(me, &frame);\n");
  }
  symbols_[variable.name] = {local ? Symbol::local : Symbol::local_parameter, variable, name};
}

void FunctionEmitter::begin_block() {
  block_ = (int)module_.blocks.size();
  module_.blocks.emplace_back();
  code_ += cat("++counts[", block_, "];\n");
  block_ended_ = false;
}

void FunctionEmitter::statement(const Statement& one) {
  switch (one.kind) {
    case Statement::open_scope:
      scopes_.emplace_back();
      scope_number_++;
      break;
    case Statement::close_scope: scopes_.pop_back(); break;
    case Statement::location: where_ = one.where; break;
    case Statement::registers:
      for (const std::string& name : one.names) {
        // Names without % come from inline assembly and must not collide with the translation's.
        std::string c_name = name[0] == '%' ? identifier(name) : cat("n_", identifier(name));
        if (scopes_.size() > 1) c_name += cat("_", scope_number_);
        scopes_.back()[name] = {c_name, one.type};
        registers_by_type_[c_type(one.type)].push_back(c_name);
      }
      break;
    case Statement::variable: declare_variable(one.variable_); break;
    case Statement::branch_targets: targets_[one.text] = one.names; break;
    case Statement::label:
      end_matrix_group();
      code_ += identifier(one.text) + ":;\n";
      block_ended_ = true;
      break;
    case Statement::instruction: {
      const Instruction& instruction = one.instruction_;
      bool matrix = one_of(instruction.mnemonic(), "ldmatrix mma");
      if (matrix && !instruction.guard.empty()) unknown(instruction, "guard of");
      if (!matrix) end_matrix_group_before(instruction);
      else if (group_.steps.size() == MOST_MATRIX_STEPS) end_matrix_group();
      if (block_ended_) begin_block();
      flops_ = 0;
      std::string text = product_checks(instruction);
      counted_ = COUNT_INTEGER;
      text += translate(instruction);
      int block = block_;
      bool leaves = counted_ == COUNT_CONTROL;
      if (!instruction.guard.empty()) {
        std::string condition = read(instruction.guard, PREDICATE);
        std::string tally;
        if (!leaves) {  // counted when executed; a branch always is
          block = (int)module_.blocks.size();
          module_.blocks.emplace_back();
          tally = cat("++counts[", block, "]; ");
        }
        text = cat("if (", instruction.guard_negated ? "!" : "", condition, ") { ", tally, text, " }");
      }
      auto& columns = module_.blocks[block];
      columns[counted_]++;
      if (counted_ == COUNT_MMA) columns[COUNT_MMA_FLOPS] += flops_;
      else columns[COUNT_FLOPS] += flops_;
      code_ += text + "\n";
      if (leaves) block_ended_ = true;
      break;
    }
  }
}

}  // namespace emulator
