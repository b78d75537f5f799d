// A parsed PTX module: variables, functions, and their statements in order.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "type.h"

namespace emulator {

struct Location {
  int file = 0, line = 0;              // of the instruction
  int outer_file = 0, outer_line = 0;  // of the kernel line that it was inlined into; else the same
};

struct Variable {
  std::string name;
  std::string space;  // reg, shared, local, param, global, const
  Type type;
  uint64_t size = 0;  // bytes
  uint32_t alignment = 1;
  uint64_t offset = 0;    // of a parameter or a shared variable
  bool external = false;  // .extern: dynamic shared memory
  std::string initial;    // the text after "="
};

struct Instruction {
  std::string opcode;                 // complete: "add.rn.ftz.f32"
  std::vector<std::string> parts;     // opcode split at the dots
  std::vector<std::string> operands;  // split at the commas; braces and brackets kept
  std::string guard;                  // predicate register; "" if none
  bool guard_negated = false;

  const std::string& mnemonic() const { return parts[0]; }
  bool has(const char* part) const;
  // The types among the parts, in order.
  std::vector<Type> types() const;
  // The last one, which is the one that matters for most instructions.
  Type type() const;
};

struct Statement {
  enum Kind { instruction, label, open_scope, close_scope, location, registers, variable, branch_targets } kind;
  std::string text;                // label, or name of a target list
  Instruction instruction_;        // instruction
  Location where;                  // location
  Variable variable_;              // variable
  Type type;                       // registers
  std::vector<std::string> names;  // registers, branch targets
};

struct Function {
  std::string name;
  bool entry = false;
  std::vector<Variable> results, parameters;
  uint32_t parameter_bytes = 0;
  uint32_t max_threads = 0;
  std::vector<Statement> body;
};

struct PtxModule {
  std::vector<Variable> variables;
  std::vector<Function> functions;  // those with a body
  std::map<int, std::string> files;
};

// Throws PtxError.
PtxModule parse_module(const std::string& ptx);
std::vector<Statement> parse_body(const std::string& text);
// A declaration after its state space: ".align 4 .b8 name[24] = {…}".
Variable parse_variable(const std::string& space, const std::string& text);

}  // namespace emulator
