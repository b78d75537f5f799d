// Parses the statements of a function, and variable declarations.
#include <cstdio>
#include <sstream>

#include "module.h"
#include "text.h"

namespace emulator {

bool Instruction::has(const char* part) const {
  for (size_t i = 1; i < parts.size(); i++)
    if (parts[i] == part) return true;
  return false;
}

std::vector<Type> Instruction::types() const {
  std::vector<Type> found;
  for (size_t i = 1; i < parts.size(); i++)
    if (Type type = parse_type(parts[i]); type.kind != Type::none) found.push_back(type);
  return found;
}

Type Instruction::type() const {
  std::vector<Type> found = types();
  return found.empty() ? Type{} : found.back();
}

Variable parse_variable(const std::string& space, const std::string& declaration) {
  Variable variable;
  variable.space = space;
  std::string text = declaration;
  if (size_t equals = text.find('='); equals != std::string::npos) {
    variable.initial = trim(text.substr(equals + 1));
    text = trim(text.substr(0, equals));
  }
  std::istringstream words(text);
  std::string word;
  while (words >> word) {
    if (word == ".align") words >> variable.alignment;
    else if (word == ".ptr") words >> word >> word;  // ".ptr .align 1" describes what a parameter points to
    else if (word[0] != '.') variable.name += word;
    else if (Type type = parse_type(word.substr(1)); type.kind != Type::none) variable.type = type;
    else if (!one_of(word, ".global .const .shared .local")) throw PtxError(cat("directive ", word));
  }
  if (variable.type.kind == Type::none || variable.name.empty()) throw PtxError(cat("declaration ", declaration));
  uint64_t count = 1;
  if (size_t bracket = variable.name.find('['); bracket != std::string::npos) {
    std::string extents = variable.name.substr(bracket);
    variable.name = variable.name.substr(0, bracket);
    for (size_t at = 0; (at = extents.find('[', at)) != std::string::npos; at++)
      count *= extents[at + 1] == ']' ? 0 : std::stoull(extents.substr(at + 1));
  }
  variable.size = count * variable.type.bytes();
  variable.alignment = std::max(variable.alignment, (uint32_t)variable.type.bytes());
  return variable;
}

namespace {

// "1 27 3" or "1 5 34, function_name $L__info_string0, inlined_at 1 27 3"
Location parse_location(const std::string& text) {
  Location location;
  if (sscanf(text.c_str(), "%d %d", &location.file, &location.line) != 2) throw PtxError(cat(".loc ", text));
  location.outer_file = location.file;
  location.outer_line = location.line;
  if (size_t inlined = text.find("inlined_at"); inlined != std::string::npos)
    sscanf(text.c_str() + inlined + 10, "%d %d", &location.outer_file, &location.outer_line);
  return location;
}

std::vector<std::string> register_names(const std::string& list) {
  std::vector<std::string> names;
  for (const std::string& name : split(list, ',')) {
    size_t count = name.find('<');
    if (count == std::string::npos) {
      names.push_back(name);
      continue;
    }
    for (int i = 0, n = std::stoi(name.substr(count + 1)); i < n; i++) names.push_back(cat(name.substr(0, count), i));
  }
  return names;
}

Instruction parse_instruction(const std::string& statement) {
  Instruction instruction;
  std::string text = statement;
  if (text[0] == '@') {
    std::string guard = first_word(text, &text).substr(1);
    instruction.guard_negated = guard[0] == '!';
    instruction.guard = guard.substr(instruction.guard_negated);
  }
  std::string operands;
  instruction.opcode = first_word(text, &operands);
  std::string opcode = instruction.opcode;
  // "shared::cta" is a single part.
  instruction.parts = split(opcode, '.');
  instruction.operands = split(operands, ',');
  return instruction;
}

Statement parse_directive(const std::string& text) {
  Statement statement{};
  std::string rest, directive = first_word(text, &rest);
  if (directive == ".reg") {
    std::string names, type = first_word(rest, &names);
    statement.kind = Statement::registers;
    statement.type = parse_type(type.substr(1));
    if (statement.type.kind == Type::none || statement.type.width > 64) throw PtxError(cat("register type ", type));
    statement.names = register_names(names);
  } else if (one_of(directive, ".shared .local .param")) {
    statement.kind = Statement::variable;
    statement.variable_ = parse_variable(directive.substr(1), rest);
  } else {
    throw PtxError(cat("directive ", directive));
  }
  return statement;
}

}  // namespace

std::vector<Statement> parse_body(const std::string& text) {
  std::vector<Statement> body;
  auto simple = [&](Statement::Kind kind) -> Statement& {
    body.emplace_back();
    body.back().kind = kind;
    return body.back();
  };
  size_t i = 0;
  while ((i = text.find_first_not_of(" \t\r\n", i)) != std::string::npos) {
    if (text[i] == ';') {
      i++;
    } else if (text[i] == '{' || text[i] == '}') {
      simple(text[i++] == '{' ? Statement::open_scope : Statement::close_scope);
    } else if (text.compare(i, 4, ".loc") == 0 && isspace((unsigned char)text[i + 4])) {
      size_t end = std::min(text.find('\n', i), text.size());
      simple(Statement::location).where = parse_location(text.substr(i + 4, end - i - 4));
      i = end;
    } else {
      size_t name_end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$", i);
      if (name_end != std::string::npos && name_end > i && text[name_end] == ':' && text[name_end + 1] != ':') {
        std::string name = text.substr(i, name_end - i);
        i = text.find_first_not_of(" \t\r\n", name_end + 1);
        if (i != std::string::npos && text.compare(i, 14, ".branchtargets") == 0) {
          size_t end = text.find(';', i);
          Statement& targets = simple(Statement::branch_targets);
          targets.text = name;
          targets.names = split(text.substr(i + 14, end - i - 14), ',');
          i = end + 1;
        } else {
          simple(Statement::label).text = name;
        }
        continue;
      }
      // Braces within an instruction hold the registers of a vector.
      size_t end = i;
      for (int depth = 0; end < text.size() && (text[end] != ';' || depth); end++)
        depth += text[end] == '{' ? 1 : text[end] == '}' ? -1 : 0;
      if (end == text.size()) throw PtxError(cat("a statement that does not end: ", text.substr(i, 60)));
      std::string statement = trim(text.substr(i, end - i));
      i = end + 1;
      if (statement[0] != '.') simple(Statement::instruction).instruction_ = parse_instruction(statement);
      else if (first_word(statement, nullptr) != ".pragma") body.push_back(parse_directive(statement));
    }
  }
  return body;
}

}  // namespace emulator
