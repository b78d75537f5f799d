// PTX to C: one statement per instruction; registers become local variables, labels stay labels. A rule per mnemonic writes the
// statement; an instruction without a rule stops the translation, and the error names it.
#pragma once
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../runtime/abi.h"
#include "module.h"
#include "text.h"

namespace emulator {

struct Symbol {
  enum Kind { shared, dynamic_shared, module_memory, kernel_parameter, local_parameter, local } kind;
  Variable variable;
  std::string c_name;  // if the memory is a C array or pointer
};

// Shared output of a module's functions.
struct ModuleOutput {
  std::map<std::string, Symbol> symbols;
  std::map<std::string, const Function*> functions;
  std::map<int, std::string> files;
  std::vector<std::string> sites;  // initializers of struct Site
  int logs = 0;                    // sites whose accesses are analysed
  std::vector<std::array<uint32_t, COUNTED>> blocks;
};

class FunctionEmitter {
 public:
  FunctionEmitter(ModuleOutput& module, const Function& function, uint64_t shared_start);

  // The whole C function.
  std::string run();
  std::string signature() const;
  // Valid after run().
  std::vector<Variable> shared_variables;
  uint64_t shared_end;
  bool uses_dynamic_shared = false, has_fence = false, has_global_atomic = false;

 private:
  friend struct Rules;
  struct Register {
    std::string c_name;
    Type type;
  };
  using Scope = std::map<std::string, Register>;

  // emit_function.cpp
  void statement(const Statement&);
  void declare_variable(const Variable&);
  void begin_block();
  std::string translate(const Instruction&);
  std::string epilogue() const;

  // operands.cpp
  const Register* find_register(const std::string& name) const;
  const Symbol* find_symbol(const std::string& name) const;
  std::string special_register(const std::string& name) const;
  std::string symbol_address(const std::string& name);
  std::string immediate(const std::string& text, Type) const;
  // The operand's value as PTX type `type`, whatever the register's own type.
  std::string read(const std::string& operand, Type type);
  // A statement that sets the register to `value`, an expression of type `type`.
  std::string write(const std::string& operand, Type type, const std::string& value);
  std::string address(const std::string& operand, int space);
  static std::vector<std::string> elements(const std::string& operand);
  int space_of(const Instruction&) const;
  std::string site(const Instruction&, bool logged = false);
  void count(Counted kind, int flops = 0);
  [[noreturn]] void unknown(const Instruction&, const char* what = "opcode") const;

  // rules_matrix.cpp
  struct MatrixResult {
    std::string operand;
    int word;
  };
  struct MatrixGroup {
    std::vector<std::string> steps;               // initializers of struct MatrixStep
    std::map<std::string, MatrixResult> results;  // by register: its value once the group has been executed
    std::map<std::string, int> inputs;            // by register: the word that holds its value
    int words = 0;
    std::string first_site;
  };
  std::vector<std::string> registers_in(const std::string& operand) const;
  void end_matrix_group_before(const Instruction&);
  void end_matrix_group();
  int matrix_input(const std::string& operand, std::string* code);
  int matrix_result(const std::string& operand);
  std::string matrix_step(const char* kind, const std::string& site, const std::vector<int>& a,
                          const std::vector<int>& b, const std::vector<int>& c, const std::vector<int>& d) const;
  std::string load_matrix(const Instruction&);
  std::string multiply_matrices(const Instruction&);

  // rules_warpgroup.cpp
  struct ProductUse {
    int registers;  // a list of registers of some wgmma, by its number
    bool results;
  };
  void find_product_registers();
  std::string product_variables() const;
  std::string product_checks(const Instruction&);
  std::string warpgroup(const Instruction&);
  std::string shared_barrier(const Instruction&);
  std::string bulk_copy(const Instruction&);
  std::string set_registers(const Instruction&);

  // rules_*.cpp: one statement writer per family
  std::string integer_arithmetic(const Instruction&);
  std::string carry_arithmetic(const Instruction&);
  std::string float_arithmetic(const Instruction&);
  std::string short_float_arithmetic(const Instruction&);
  std::string pair_float_arithmetic(const Instruction&);
  std::string arithmetic(const Instruction&);
  std::string divide(const Instruction&);
  std::string approximate(const Instruction&);
  std::string copy_sign(const Instruction&);
  std::string test_property(const Instruction&);
  std::string logic(const Instruction&);
  std::string three_input_logic(const Instruction&);
  std::string shift(const Instruction&);
  std::string funnel_shift(const Instruction&);
  std::string permute_bytes(const Instruction&);
  std::string bit_field(const Instruction&);
  std::string bit_count(const Instruction&);
  std::string dot_product(const Instruction&);
  std::string move(const Instruction&);
  std::string convert(const Instruction&);
  std::string convert_address(const Instruction&);
  std::string is_in_space(const Instruction&);
  std::string compare(const Instruction&);
  std::string comparison(const Instruction&, const std::string& operation, Type, const std::string& a,
                         const std::string& b);
  std::string set_value(const Instruction&);
  std::string select(const Instruction&);
  std::string select_by_sign(const Instruction&);
  std::string load(const Instruction&);
  std::string store(const Instruction&);
  std::string atomic(const Instruction&);
  std::string async_copy(const Instruction&);
  std::string fence(const Instruction&);
  std::string nothing(const Instruction&);
  std::string sleep(const Instruction&);
  std::string barrier(const Instruction&);
  std::string shuffle(const Instruction&);
  std::string vote(const Instruction&);
  std::string match(const Instruction&);
  std::string redux(const Instruction&);
  std::string active_mask(const Instruction&);
  std::string branch(const Instruction&);
  std::string indexed_branch(const Instruction&);
  std::string call(const Instruction&);
  std::string leave(const Instruction&);
  std::string trap(const Instruction&);

  ModuleOutput& module_;
  const Function& function_;
  std::vector<Scope> scopes_{1};
  std::map<std::string, Symbol> symbols_;
  std::map<std::string, std::vector<std::string>> targets_;
  std::map<std::string, std::vector<std::string>> registers_by_type_;
  std::string arrays_, code_;
  uint64_t local_bytes_ = 0;
  int scope_number_ = 0;
  Location where_;
  int block_ = -1;
  bool block_ended_ = true;
  MatrixGroup group_;
  int most_words_ = 0;
  std::map<std::string, int> product_registers_;                   // by operand of a wgmma
  std::map<std::string, std::vector<ProductUse>> products_with_;  // by register
  Counted counted_ = COUNT_INTEGER;
  int flops_ = 0;
};

// The whole module as C, to be compiled after the primitives. Throws PtxError.
std::string emit_module(const PtxModule&);

}  // namespace emulator
