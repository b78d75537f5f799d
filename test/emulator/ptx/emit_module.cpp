// The module's memory, its functions, and the tables by which the runtime finds them.
#include "emit.h"

namespace emulator {
namespace {

// "{1, 0f3F800000}" with PTX's floating-point constants as bits.
std::string initializer(const Variable& variable) {
  if (variable.initial.empty()) return "";
  std::string text = variable.initial[0] == '{' ? variable.initial : cat("{", variable.initial, "}"), result;
  for (size_t i = 0; i < text.size(); i++) {
    bool starts = i == 0 || !isalnum((unsigned char)text[i - 1]);
    if (starts && text[i] == '0' && i + 1 < text.size() && strchr("fFdD", text[i + 1])) {
      result += "0x";
      i++;
    } else if (isalpha((unsigned char)text[i]) && !isxdigit((unsigned char)text[i]) && text[i] != 'x' &&
               text[i] != 'U') {
      throw PtxError(cat("initial value of ", variable.name));
    } else {
      result += text[i];
    }
  }
  return " = " + result;
}

// Module memory as a C array, and its entry in the table of globals.
std::string declare_global(Variable& variable, ModuleOutput* module, std::string* entries) {
  std::string name = cat("memory_", identifier(variable.name));
  module->symbols[variable.name] = {Symbol::module_memory, variable, name};
  *entries += cat("{\"", variable.name, "\", ", name, ", ", variable.size, "},\n");
  Type element = bits_type(variable.type.bytes() * 8);
  return cat("static ", c_type(element), " ", name, "[", variable.size / variable.type.bytes(),
             "] __attribute__((aligned(", std::max(variable.alignment, 16u), ")))", initializer(variable), ";\n");
}

uint64_t align(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

std::string emit_module(const PtxModule& ptx) {
  ModuleOutput module;
  module.files = ptx.files;
  std::string memory, globals;
  uint64_t shared_end = 0, dynamic_alignment = 128;
  std::vector<Variable> module_shared;
  for (Variable variable : ptx.variables) {
    if (variable.space != "shared") {
      memory += declare_global(variable, &module, &globals);
    } else if (variable.external) {
      module.symbols[variable.name] = {Symbol::dynamic_shared, variable, ""};
      dynamic_alignment = std::max<uint64_t>(dynamic_alignment, variable.alignment);
    } else {
      variable.offset = align(shared_end + SHARED_RED_ZONE, std::max<uint64_t>(variable.alignment, 16));
      shared_end = variable.offset + variable.size;
      module.symbols[variable.name] = {Symbol::shared, variable, ""};
      module_shared.push_back(variable);
    }
  }
  for (const Function& function : ptx.functions) module.functions[function.name] = &function;

  std::string declarations, bodies, tables, kernels;
  bool fences = false, atomics = false;  // in functions that kernels may call
  // Functions first: their shared variables come before those of every kernel.
  for (bool entries : {false, true}) {
    for (const Function& function : ptx.functions) {
      if (function.entry != entries) continue;
      FunctionEmitter emitter(module, function, shared_end);
      std::string body = emitter.run();
      declarations += emitter.signature() + ";\n";
      bodies += body;
      if (!entries) {
        shared_end = emitter.shared_end;
        for (const Variable& variable : emitter.shared_variables) module_shared.push_back(variable);
        fences |= emitter.has_fence;
        atomics |= emitter.has_global_atomic;
        continue;
      }
      std::string name = identifier(function.name), shared, parameters;
      uint64_t static_bytes = 0, count = 0;
      for (const auto* list : {&module_shared, &emitter.shared_variables})
        for (const Variable& variable : *list) {
          shared += cat("{\"", variable.name, "\", ", variable.offset, ", ", variable.size, "}, ");
          static_bytes = align(static_bytes, variable.alignment) + variable.size;
          count++;
        }
      for (const Variable& parameter : function.parameters)
        parameters += cat("{", parameter.offset, ", ", parameter.size, "}, ");
      uint64_t dynamic_offset = align(emitter.shared_end + SHARED_RED_ZONE, dynamic_alignment);
      tables += cat("static const struct ParameterEntry parameters_", name, "[] = {", parameters, "{0, 0}};\n",
                    "static const struct SharedEntry shared_", name, "[] = {", shared, "{0, 0, 0}};\n");
      kernels += cat("{\"", function.name, "\", kernel_", name, ", parameters_", name, ", ", function.parameters.size(),
                     ", ", function.parameter_bytes, ", shared_", name, ", ", count, ", ", static_bytes, ", ",
                     dynamic_offset, ", ", function.max_threads, ", ", (int)(emitter.has_fence || fences), ", ",
                     (int)(emitter.has_global_atomic || atomics), "},\n");
    }
  }

  std::string sites, blocks;
  for (const std::string& site : module.sites) sites += site + ",\n";
  for (const auto& columns : module.blocks) {
    blocks += "{{";
    for (uint32_t column : columns) blocks += cat(column, ",");
    blocks += "}},";
  }
  return cat(
      memory, declarations, bodies, tables, "static const struct KernelEntry kernels[] = {\n", kernels,
      "{0}};\nstatic const struct GlobalEntry globals[] = {\n", globals,
      "{0, 0, 0}};\nstatic const struct Site sites[] = {\n", sites,
      "{0, 0, 0, 0, 0, -1}};\nstatic const struct BlockCount blocks[] = {", blocks, "{{0}}};\n",
      "EXPORTED const struct ModuleTable emulator_module = {kernels, sizeof kernels / sizeof *kernels - 1, globals, "
      "sizeof globals / sizeof *globals - 1, sites, ",
      module.sites.size(), ", ", module.logs, ", blocks, ", module.blocks.size(), "};\n");
}

}  // namespace emulator
