// Parses the outer level of PTX: module directives, variables, function heads.
#include "module.h"
#include "text.h"

namespace emulator {
namespace {

// The position at which the bracket at `open` closes.
size_t matching_brace(const std::string& text, size_t open) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = open; i < text.size(); i++) {
    if (text[i] == '"') quoted = !quoted;
    if (quoted) continue;
    if (text[i] == '{') depth++;
    if (text[i] == '}' && --depth == 0) return i;
  }
  throw PtxError("a brace that does not close");
}

std::vector<Variable> parse_parameters(const std::string& list) {
  std::vector<Variable> parameters;
  for (const std::string& one : split(list, ',')) {
    std::string rest, space = first_word(one, &rest);
    if (space != ".param" && space != ".reg") throw PtxError(cat("parameter ", one));
    parameters.push_back(parse_variable(space.substr(1), rest));
  }
  return parameters;
}

// Directives between the parameter list and the body.
void parse_attributes(const std::string& text, Function* function) {
  std::string rest = text;
  while (!rest.empty()) {
    std::string directive = first_word(rest, &rest);
    size_t next = rest.find('.');
    std::string values = trim(rest.substr(0, next));
    rest = next == std::string::npos ? "" : rest.substr(next);
    if (directive == ".maxntid" || directive == ".reqntid") {
      function->max_threads = 1;
      for (const std::string& extent : split(values, ',')) function->max_threads *= (uint32_t)std::stoul(extent);
    } else if (!one_of(directive, ".minnctapersm .maxnreg .noreturn .pragma .blocksareclusters")) {
      throw PtxError(cat("directive ", directive));
    }
  }
}

// ".visible .entry name(…) .maxntid 128": everything up to the body or the semicolon.
Function parse_head(const std::string& head) {
  Function function;
  size_t entry = head.find(".entry");
  function.entry = entry != std::string::npos;
  size_t at = function.entry ? entry + 6 : head.find(".func") + 5;
  std::string rest = trim(head.substr(at));
  if (!function.entry && !rest.empty() && rest[0] == '(') {
    size_t close = rest.find(')');
    function.results = parse_parameters(rest.substr(1, close - 1));
    rest = trim(rest.substr(close + 1));
  }
  size_t end = rest.find_first_of("( \t\r\n");
  function.name = rest.substr(0, end);
  rest = end == std::string::npos ? "" : trim(rest.substr(end));
  if (!rest.empty() && rest[0] == '(') {
    size_t close = rest.find(')');
    function.parameters = parse_parameters(rest.substr(1, close - 1));
    rest = trim(rest.substr(close + 1));
  }
  uint64_t offset = 0;
  for (Variable& parameter : function.parameters) {
    offset = (offset + parameter.alignment - 1) / parameter.alignment * parameter.alignment;
    parameter.offset = offset;
    offset += parameter.size;
  }
  function.parameter_bytes = (uint32_t)offset;
  parse_attributes(rest, &function);
  return function;
}

void parse_file(const std::string& text, PtxModule* module) {
  std::string rest;
  int number = std::stoi(first_word(text, &rest));
  size_t open = rest.find('"'), close = rest.find('"', open + 1);
  if (open == std::string::npos || close == std::string::npos) throw PtxError(cat(".file ", text));
  std::string path = rest.substr(open + 1, close - open - 1);
  module->files[number] = path.substr(path.find_last_of('/') + 1);
}

Variable parse_module_variable(const std::string& text) {
  std::string rest = text, directive = first_word(rest, &rest);
  bool external = false;
  while (one_of(directive, ".extern .visible .weak .common")) {
    external |= directive == ".extern";
    directive = first_word(rest, &rest);
  }
  if (!one_of(directive, ".shared .global .const")) throw PtxError(cat("directive ", directive));
  Variable variable = parse_variable(directive.substr(1), rest);
  variable.external = external;
  if (external && !(variable.space == "shared" && variable.size == 0))
    throw PtxError(cat("external variable ", variable.name));
  return variable;
}

}  // namespace

PtxModule parse_module(const std::string& ptx) {
  std::string text = without_comments(ptx);
  PtxModule module;
  size_t i = 0;
  while ((i = text.find_first_not_of(" \t\r\n", i)) != std::string::npos) {
    size_t line_end = std::min(text.find('\n', i), text.size());
    std::string rest, directive = first_word(text.substr(i, line_end - i), &rest);
    if (one_of(directive, ".version .target .address_size")) {
      i = line_end;
    } else if (directive == ".file") {
      parse_file(rest, &module);
      i = line_end;
    } else if (directive == ".section") {  // debug information
      i = matching_brace(text, text.find('{', i)) + 1;
    } else {
      size_t end = text.find_first_of(";{", i);
      if (end == std::string::npos) throw PtxError(cat("directive ", directive));
      std::string head = text.substr(i, end - i);
      bool function = head.find(".entry") != std::string::npos || head.find(".func") != std::string::npos;
      if (!function) {
        while (end < text.size() && text[end] != ';') end = text[end] == '{' ? matching_brace(text, end) + 1 : end + 1;
        module.variables.push_back(parse_module_variable(text.substr(i, end - i)));
        i = end + 1;
      } else if (text[end] == ';') {
        i = end + 1;  // a declaration: the definition repeats it
      } else {
        size_t close = matching_brace(text, end);
        Function parsed = parse_head(trim(head));
        try {
          parsed.body = parse_body(text.substr(end + 1, close - end - 1));
        } catch (const PtxError& error) {
          throw PtxError(cat(parsed.name, ": ", error.what()));
        }
        module.functions.push_back(std::move(parsed));
        i = close + 1;
      }
    }
  }
  return module;
}

}  // namespace emulator
