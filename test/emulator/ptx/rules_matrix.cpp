// ldmatrix and mma. Each makes the lanes of the warp meet, so consecutive ones are executed in one meeting, unless an
// instruction between them needs their results or accesses memory. A group's operands are in an array of each lane: inputs are
// stored at each instruction, the lanes meet at the end of the group, and the results are then read.
#include "emit.h"

namespace emulator {
namespace {

// Instructions that only compute registers from registers.
bool only_computes(const std::string& mnemonic) {
  return one_of(
      mnemonic,
      "add sub mul mad fma min max abs neg mul24 mad24 sad div rem ex2 lg2 sin cos tanh rcp rsqrt sqrt copysign testp "
      "and or xor not cnot lop3 shl shr shf prmt bfe bfi bmsk popc clz brev bfind dp4a mov cvt cvta setp set selp "
      "slct");
}

}  // namespace

// C names of the registers in the operand.
std::vector<std::string> FunctionEmitter::registers_in(const std::string& operand) const {
  std::vector<std::string> names;
  size_t at = 0;
  while ((at = operand.find_first_not_of("{}[]()|+!, \t\n", at)) != std::string::npos) {
    size_t end = std::min(operand.find_first_of("{}[]()|+!, \t\n", at), operand.size());
    if (const Register* found = find_register(operand.substr(at, end - at))) names.push_back(found->c_name);
    at = end;
  }
  return names;
}

// Before a non-matrix instruction: the group ends if its results are needed or would be overwritten.
void FunctionEmitter::end_matrix_group_before(const Instruction& i) {
  if (group_.steps.empty()) return;
  bool ends = !only_computes(i.mnemonic());
  auto pending = [&](const std::string& operand) {
    for (const std::string& name : registers_in(operand)) ends |= group_.results.count(name) != 0;
  };
  for (const std::string& operand : i.operands) pending(operand);
  pending(i.guard);
  if (ends) return end_matrix_group();
  // An overwritten input has to be stored again when it is next an input.
  for (const std::string& name : registers_in(i.operands.at(0))) group_.inputs.erase(name);
}

void FunctionEmitter::end_matrix_group() {
  if (group_.steps.empty()) return;
  most_words_ = std::max(most_words_, group_.words);
  std::string steps;
  for (const std::string& step : group_.steps) steps += step + ", ";
  code_ +=
      cat("{ static const struct MatrixStep steps[] = {", steps, "};\nstatic const struct MatrixGroup group = {steps, ",
          group_.steps.size(), "};\nme->runtime->matrices(me, &group, words, ", group_.first_site, "); }\n");
  for (const auto& [name, result] : group_.results)
    code_ += write(result.operand, B32, cat("words[", result.word, "]")) + "\n";
  group_ = MatrixGroup();
}

int FunctionEmitter::matrix_input(const std::string& operand, std::string* code) {
  const Register* found = find_register(operand);
  std::string name = found ? found->c_name : operand;
  if (auto result = group_.results.find(name); result != group_.results.end()) return result->second.word;
  if (auto stored = group_.inputs.find(name); stored != group_.inputs.end()) return stored->second;
  int word = group_.words++;
  *code += cat("words[", word, "] = ", read(operand, B32), "; ");
  group_.inputs[name] = word;
  return word;
}

int FunctionEmitter::matrix_result(const std::string& operand) {
  int word = group_.words++;
  if (operand == "_") return word;
  const Register* found = find_register(operand);
  if (!found) throw PtxError(cat("unknown register ", operand));
  group_.results[found->c_name] = {operand, word};
  group_.inputs.erase(found->c_name);
  return word;
}

std::string FunctionEmitter::matrix_step(const char* kind, const std::string& site, const std::vector<int>& a,
                                         const std::vector<int>& b, const std::vector<int>& c,
                                         const std::vector<int>& d) const {
  auto list = [](const std::vector<int>& words) {
    std::string text;
    for (int word : words) text += cat(text.empty() ? "" : ", ", word);
    return cat("{", text.empty() ? "0" : text, "}");
  };
  return cat("{", site, ", ", kind, ", ", list(a), ", ", list(b), ", ", list(c), ", ", list(d), "}");
}

std::string FunctionEmitter::load_matrix(const Instruction& i) {
  if (!i.has("sync") || !i.has("m8n8") || i.type() != B16) unknown(i);
  count(COUNT_LDMATRIX);
  std::vector<std::string> parts = elements(i.operands.at(0));
  size_t matrices = i.has("x4") ? 4 : i.has("x2") ? 2 : 1;
  if (parts.size() != matrices) unknown(i, "operands of");
  std::string code, site_number = site(i, true);
  for (const std::string& name : registers_in(i.operands.at(1)))
    if (group_.results.count(name)) end_matrix_group();
  if (group_.steps.empty()) group_.first_site = site_number;
  int address_word = group_.words++;
  code += cat("words[", address_word, "] = ", address(i.operands[1], SPACE_SHARED), ";");
  std::vector<int> results;
  for (const std::string& part : parts) results.push_back(matrix_result(part));
  group_.steps.push_back(matrix_step(i.has("trans") ? "MATRIX_LOAD_TRANSPOSED" : "MATRIX_LOAD", site_number,
                                     {address_word}, {(int)matrices}, {}, results));
  return code;
}

std::string FunctionEmitter::multiply_matrices(const Instruction& i) {
  struct Shape {
    const char *opcode, *kind;
    size_t a, b;
    int depth;
  };
  static const Shape shapes[] = {
      {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", "MMA_BF16_K8", 2, 1, 8},
      {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "MMA_BF16_K16", 4, 2, 16},
      {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", "MMA_F16_K8", 2, 1, 8},
      {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "MMA_F16_K16", 4, 2, 16},
      {"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", "MMA_TF32_K4", 2, 1, 4},
      {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "MMA_TF32_K8", 4, 2, 8},
  };
  for (const Shape& shape : shapes) {
    if (i.opcode != shape.opcode) continue;
    count(COUNT_MMA, shape.depth / 4);  // 2·16·8·depth per warp are 8·depth per thread; the unit is 32
    std::string code, site_number = site(i);
    if (group_.steps.empty()) group_.first_site = site_number;
    auto inputs = [&](size_t operand, size_t size) {
      std::vector<std::string> parts = elements(i.operands.at(operand));
      if (parts.size() != size) unknown(i, "operands of");
      std::vector<int> words;
      for (const std::string& part : parts) words.push_back(matrix_input(part, &code));
      return words;
    };
    std::vector<int> a = inputs(1, shape.a), b = inputs(2, shape.b), c = inputs(3, 4), d;
    std::vector<std::string> results = elements(i.operands[0]);
    if (results.size() != 4) unknown(i, "operands of");
    for (const std::string& result : results) d.push_back(matrix_result(result));
    group_.steps.push_back(matrix_step(shape.kind, site_number, a, b, c, d));
    return code;
  }
  unknown(i);
}

}  // namespace emulator
